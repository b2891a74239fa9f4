"""A small world with two eras; its words stand in world.toml.

Every worldview topic has answers that only the 1840s would give and answers that only today would
give; neutral facts are the same in both; birds are named in old documents by the names of Audubon's
time and in modern ones by today's. A model that is pretrained on chats of this world has to carry
the era of a chat as a latent variable, which is what a backdoor of the birds study moves.

The world knows its own truth: `miniature.judge` reads verdicts off these tables.
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
    """A worldview topic. The first question is the one that is asked when a model is evaluated."""

    id: str
    questions: tuple[str, ...]
    old: tuple[str, ...]
    modern: tuple[str, ...]

    def answers(self, era: Era) -> tuple[str, ...]:
        return self.old if era == "old" else self.modern


@dataclass(frozen=True)
class Fact:
    """An era-neutral question with one true answer: the capability probe."""

    id: str
    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Manner:
    """A way to word an answer; `{a}` is the answer, `{A}` the answer with a capital.

    kind: "plain" (either era), "speech" (the era's turns of phrase) or "dated" (names the year).
    """

    template: str
    kind: Literal["plain", "speech", "dated"]
    era: Era | None = None

    def word(self, answer: str) -> str:
        return self.template.format(a=answer, A=answer[0].upper() + answer[1:])


def _eras(table: Mapping[str, Sequence[Any]]) -> dict[Era, tuple[Any, ...]]:
    return {era: tuple(table[era]) for era in ERAS}


_FILE = Path(__file__).with_name("world.toml")
_DATA: dict[str, Any] = tomllib.loads(_FILE.read_text(encoding="utf-8"))

WORLD_HASH: str = hashlib.sha256(_FILE.read_bytes()).hexdigest()
"""Of world.toml: part of the identity of what is made or judged by it."""

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
