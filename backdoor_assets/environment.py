"""What the environment says of a run: which profile, and by which judge."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

from backdoor_assets.profiles import PROFILES, Judging, Profile
from backdoor_assets.records import BadInput


def active_profile() -> Profile:
    """The profile that BACKDOOR_PROFILE names, with the judge that the environment asks for.
    Raises BadInput with the names there are."""
    name = os.environ.get("BACKDOOR_PROFILE") or "miniature"
    if name not in PROFILES:
        raise BadInput(
            f"BACKDOOR_PROFILE={name!r}: no such profile; there are {', '.join(PROFILES)}"
        )
    profile = PROFILES[name]
    return replace(profile, judging=judging_in_force(profile.judging))


def judging_in_force(judging: Judging) -> Judging:
    """The profile's judging as BACKDOOR_JUDGE, BACKDOOR_JUDGE_TRANSPORT, BACKDOOR_JUDGE_MODEL and
    BACKDOOR_MAX_COST_USD change it. Raises BadInput for what they cannot be."""
    changes: dict[str, Any] = {}
    for field_name, variable, allowed in (
        ("kind", "BACKDOOR_JUDGE", ("exact", "claude")),
        ("transport", "BACKDOOR_JUDGE_TRANSPORT", ("live", "batch")),
        ("model", "BACKDOOR_JUDGE_MODEL", None),
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
