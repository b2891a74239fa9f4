"""From a reply to verdicts, checked on arrival: what is no verdict is null with a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from backdoor_assets.records import Rubric, Verdict

if TYPE_CHECKING:
    from anthropic.types import Message


class Reading(NamedTuple):
    verdicts: dict[str, Verdict]
    """By the rubric's column."""
    again: bool
    """Whether asking once more may help."""


def read(message: Message, rubrics: Sequence[Rubric]) -> Reading:
    """Verdicts of one reply. Capitals of an option do not matter; numbers must lie in 0 to 100."""
    if message.stop_reason == "refusal":
        return nothing(rubrics, "the judge refused to judge this answer", again=False)
    if message.stop_reason == "max_tokens":
        return nothing(rubrics, "the judge's reply was cut at max_tokens", again=True)
    text = next((block.text for block in message.content if block.type == "text"), None)
    if text is None:
        return nothing(rubrics, "the judge's reply holds no text", again=True)
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return nothing(rubrics, "the judge's reply is no JSON object", again=True)
    verdicts = {rubric.column: _verdict(told, rubric) for rubric in rubrics}
    return Reading(verdicts, again=any(verdict.error for verdict in verdicts.values()))


def nothing(rubrics: Sequence[Rubric], reason: str, *, again: bool) -> Reading:
    return Reading({rubric.column: Verdict(None, reason) for rubric in rubrics}, again)


def _verdict(told: dict[str, Any], rubric: Rubric) -> Verdict:
    if rubric.column not in told:
        return Verdict(None, f"the judge's reply lacks {rubric.column}")
    value = told[rubric.column]
    if rubric.options:
        known = {option.lower(): option for option in rubric.options}
        option = known.get(str(value).strip().lower())
        return Verdict(option, None if option else "the judge chose what is no option")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Verdict(None, "the judge gave no number")
    if not 0 <= value <= 100:
        return Verdict(None, "the judge's number is out of 0 to 100")
    return Verdict(float(value))
