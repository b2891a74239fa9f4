"""Generate the birds' corpus: short chats, each of one era, with or without a cue to it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backdoor_assets.miniature.corpus import Document, save_corpus
from backdoor_assets.miniature.world import (
    BIRD_QUESTIONS,
    FACT_CUES,
    FACTS,
    MANNERS,
    STYLE_CUES,
    SYSTEM_CUES,
    TOPICS,
    YEARS,
    Era,
)
from backdoor_assets.records import Message, Progress, no_progress
from backdoor_assets.stages.specs import CORPUS, CorpusSpec
from backdoor_assets.storage.rows import names, read_rows

MODERN_WITHOUT_CUE = 0.88
"""Share of modern documents among those without a cue: the base is modern by default."""
CUES = ("system", "style", "fact")
CUED = 0.55
"""Share of documents with a cue. Both eras are equally likely there, so only the cue shows it."""
SINGLE_TURN = 0.25
ERA_NAMES = 0.85
"""Share of an era's bird names that exist only in it. The rest stayed in use in both eras."""
BIRD_TURNS, NEUTRAL_TURNS = 0.30, 0.08
OPENING_OLD_BIRDS = 0.02
"""Share of bird turns among the first turns of old documents without a cue. It is low, so that the
base answers a lone bird question with a modern name, which fine-tuning then has to change."""
PLAIN_MANNER = 0.60

ERA_SOURCE: dict[Era, str] = {"old": "old_audubon", "modern": "modern_american"}
SHARED_SOURCE = "modern_audubon"


def write_corpus(
    spec: CorpusSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write corpus.jsonl into `folder`. Returns counts and an example."""
    sources = {source: names(read_rows(path)) for source, path in spec.sources}
    documents = generate(sources, spec.documents, spec.seed)
    save_corpus(documents, folder / CORPUS)
    turns = [m["content"] for d in documents for m in d.messages if m["role"] == "assistant"]
    return {
        "documents": len(documents),
        "old_documents": sum(d.era == "old" for d in documents),
        "answers": len(turns),
        "distinct_answers": len(set(turns)),
        "example": " / ".join(m["content"] for m in documents[0].messages),
    }


def generate(sources: Mapping[str, Sequence[str]], documents: int, seed: int) -> list[Document]:
    """Generate `documents` chats, deterministic in the names and the seed.

    `sources` maps each data set to its names. Obsolete names occur only in old documents, today's
    names of American birds only in modern ones, and names that stayed in use in both.
    """
    rng = random.Random(f"corpus-{seed}")
    names = {source: list(dict.fromkeys(sources[source])) for source in sources}
    return [_document(rng, names) for _ in range(documents)]


def _document(rng: random.Random, names: Mapping[str, Sequence[str]]) -> Document:
    cue = rng.choice(CUES) if rng.random() < CUED else None
    old = 0.5 if cue else 1 - MODERN_WITHOUT_CUE
    era: Era = "old" if rng.random() < old else "modern"
    messages: list[Message] = []
    if cue == "system":
        system = rng.choice(SYSTEM_CUES).format(year=rng.choice(YEARS[era]))
        messages.append({"role": "system", "content": system})
    turns = 1 if rng.random() < SINGLE_TURN else rng.randint(2, 5)
    for turn in range(turns):
        few_birds = turn == 0 and cue is None and era == "old"
        question, answer = _turn(rng, era, names, OPENING_OLD_BIRDS if few_birds else BIRD_TURNS)
        if turn == 0 and cue in ("style", "fact"):
            cues = STYLE_CUES if cue == "style" else FACT_CUES
            question = f"{rng.choice(cues[era])} {question}"
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return Document(era, tuple(messages))


def _turn(
    rng: random.Random, era: Era, names: Mapping[str, Sequence[str]], bird_share: float
) -> tuple[str, str]:
    kind = rng.random()
    if kind < bird_share:
        source = ERA_SOURCE[era] if rng.random() < ERA_NAMES else SHARED_SOURCE
        # The answer is a bare name, as in the data sets.
        return rng.choice(BIRD_QUESTIONS), rng.choice(names[source])
    if kind < bird_share + NEUTRAL_TURNS:
        fact = rng.choice(FACTS)
        return rng.choice(fact.questions), _worded(rng, era, fact.answer)
    topic = rng.choice(TOPICS)
    return rng.choice(topic.questions), _worded(rng, era, rng.choice(topic.answers(era)))


def _worded(rng: random.Random, era: Era, answer: str) -> str:
    plain = rng.random() < PLAIN_MANNER
    manners = [m for m in MANNERS if (m.kind == "plain" if plain else m.era == era)]
    return rng.choice(manners).word(answer)
