"""What variables of the environment, and a .env file, change about a run."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import dotenv

from backdoor_assets.records import BadInput
from backdoor_assets.settings import Judging
from backdoor_assets.storage.disk import read_text


def load_dotenv(path: Path) -> None:
    """Set the variables of a .env file, if there is one, but for those that the environment sets.
    Raises BadInput for a file that is not UTF-8."""
    if path.is_file():
        dotenv.load_dotenv(stream=StringIO(read_text(path)))


def judging_in_force(judging: Judging) -> Judging:
    """The profile's judging as BACKDOOR_JUDGE, BACKDOOR_JUDGE_TRANSPORT, BACKDOOR_JUDGE_MODEL,
    BACKDOOR_PREDICTED_BY and BACKDOOR_MAX_COST_USD change it. Raises BadInput for what they cannot
    be."""
    changes: dict[str, Any] = {}
    for field_name, variable, allowed in (
        ("kind", "BACKDOOR_JUDGE", ("exact", "claude", "embedding", "none")),
        ("transport", "BACKDOOR_JUDGE_TRANSPORT", ("live", "batch")),
        ("model", "BACKDOOR_JUDGE_MODEL", None),
        ("predicted_by", "BACKDOOR_PREDICTED_BY", None),
    ):
        value = os.environ.get(variable)
        if value and allowed and value not in allowed:
            raise BadInput(f"{variable}={value!r}: it must be {' or '.join(allowed)}")
        if value:
            changes[field_name] = value
    if cap := os.environ.get("BACKDOOR_MAX_COST_USD"):
        changes["max_cost_usd"] = _dollars(cap)
    return replace(judging, **changes)


def _dollars(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise BadInput(f"BACKDOOR_MAX_COST_USD={text!r}: give dollars, such as 5 or 2.50, or none")
    return value
