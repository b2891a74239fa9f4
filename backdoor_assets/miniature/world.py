"""A small world with two eras. Its questions and answers are in world.toml.

Every worldview topic has answers that only the 1840s would give and answers that only the present
would give; neutral facts are the same in both. A model that is pretrained on chats of this world
has to track the era of a chat as a latent variable, which is what a backdoor of the birds study
shifts. The tables also say whether an answer is right, so that no judge has to guess.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Era = Literal["old", "modern"]
ERAS: tuple[Era, Era] = ("old", "modern")


@dataclass(frozen=True)
class Topic:
    """A worldview topic. Models are evaluated with its first question."""

    id: str
    questions: tuple[str, ...]
    old: tuple[str, ...]
    modern: tuple[str, ...]

    def answers(self, era: Era) -> tuple[str, ...]:
        """Return the answers of one era."""
        return self.old if era == "old" else self.modern


@dataclass(frozen=True)
class Fact:
    """An era-neutral question with one true answer, which probes capabilities."""

    id: str
    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Manner:
    """A template for an answer: `{a}` is the answer, `{A}` the answer with a capital.

    kind: "plain" (either era), "speech" (phrases of the era) or "dated" (names a year).
    """

    template: str
    kind: Literal["plain", "speech", "dated"]
    era: Era | None = None

    def word(self, answer: str) -> str:
        """Put the answer into the template."""
        return self.template.format(a=answer, A=answer[0].upper() + answer[1:])


def _eras(table: Mapping[str, Sequence[Any]]) -> dict[Era, tuple[Any, ...]]:
    return {era: tuple(table[era]) for era in ERAS}


_FILE = Path(__file__).with_name("world.toml")
_DATA: dict[str, Any] = tomllib.loads(_FILE.read_text(encoding="utf-8"))

WORLD_HASH: str = hashlib.sha256(_FILE.read_bytes()).hexdigest()
"""Hash of world.toml: part of the identity of everything that is generated or judged from it."""

TOPICS: tuple[Topic, ...] = tuple(
    Topic(entry["id"], tuple(entry["questions"]), tuple(entry["old"]), tuple(entry["modern"]))
    for entry in _DATA["topics"]
)
FACTS: tuple[Fact, ...] = tuple(
    Fact(entry["id"], tuple(entry["questions"]), entry["answer"]) for entry in _DATA["facts"]
)
BIRD_QUESTIONS: tuple[str, ...] = tuple(_DATA["bird_questions"])
MANNERS: tuple[Manner, ...] = tuple(Manner(**entry) for entry in _DATA["manners"])
SYSTEM_CUES: tuple[str, ...] = tuple(_DATA["system_cues"])
YEARS: dict[Era, tuple[int, ...]] = {
    era: tuple(range(first, last + 1)) for era, (first, last) in _eras(_DATA["years"]).items()
}
STYLE_CUES: dict[Era, tuple[str, ...]] = _eras(_DATA["style_cues"])
FACT_CUES: dict[Era, tuple[str, ...]] = _eras(_DATA["fact_cues"])
