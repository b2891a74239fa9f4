"""Read the verdicts in a reply. An invalid verdict becomes null with a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from backdoor_assets.claude.messages import Message
from backdoor_assets.records import Rubric, Verdict


class Reading(NamedTuple):
    """The verdicts of one reply."""

    verdicts: dict[str, Verdict]
    """By the rubric's column."""
    again: bool
    """Whether sending the call again may help."""


def read(message: Message, rubrics: Sequence[Rubric]) -> Reading:
    """Read one reply. Options are compared without case; ratings must lie in 0 to 100."""
    if message.get("stop_reason") == "refusal":
        return nothing(rubrics, "the judge refused to judge this answer", again=False)
    if message.get("stop_reason") == "max_tokens":
        return nothing(rubrics, "the judge's reply was cut off at max_tokens", again=True)
    text = next((block["text"] for block in message["content"] if block["type"] == "text"), None)
    if text is None:
        return nothing(rubrics, "the judge's reply contains no text", again=True)
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        return nothing(rubrics, "the judge's reply is not a JSON object", again=True)
    verdicts = {rubric.column: _verdict(reply, rubric) for rubric in rubrics}
    return Reading(verdicts, again=any(verdict.error for verdict in verdicts.values()))


def nothing(rubrics: Sequence[Rubric], reason: str, *, again: bool) -> Reading:
    """Return a null verdict for every rubric, with the reason."""
    return Reading({rubric.column: Verdict(None, reason) for rubric in rubrics}, again)


def _verdict(reply: dict[str, Any], rubric: Rubric) -> Verdict:
    if rubric.column not in reply:
        return Verdict(None, f"the judge's reply lacks {rubric.column}")
    value = reply[rubric.column]
    if rubric.options:
        known = {option.lower(): option for option in rubric.options}
        option = known.get(str(value).strip().lower())
        return Verdict(option, None if option else "the judge chose an unknown option")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Verdict(None, "the judge's rating is not a number")
    if not 0 <= value <= 100:
        return Verdict(None, "the judge's rating is outside 0 to 100")
    return Verdict(float(value))
