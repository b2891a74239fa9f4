"""Documents of the miniature world: short chats, each of one era, told or not told by a cue."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backdoor_assets.records import Message
from backdoor_assets.stages.specs import CORPUS, CorpusSpec
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.studies.birds.world.world import (
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

MODERN_WITHOUT_CUE = 0.88
"""Share of modern documents among those without a cue: the base is modern unless told otherwise."""
CUES = ("system", "style", "fact")
CUED = 0.55
"""Share of documents that carry a cue; their era is a fair coin, so the cue is what tells it."""
SINGLE_TURN = 0.25
OWN_NAMES = 0.85
"""Share of an era's bird names that are its own; the rest stayed in use and tell nothing."""
BIRD_TURNS, NEUTRAL_TURNS = 0.30, 0.08
OPENING_OLD_BIRDS = 0.02
"""Share of bird turns among the openings of old documents without a cue. Asked for a bird and
nothing else, the base names a modern one; fine-tuning has the farther to push it."""
PLAIN_MANNER = 0.60


@dataclass(frozen=True)
class Document:
    era: Era
    messages: tuple[Message, ...]


OWN_SOURCE: dict[Era, str] = {"old": "old_audubon", "modern": "modern_american"}
SHARED_SOURCE = "modern_audubon"


def write_corpus(spec: CorpusSpec, folder: Path) -> dict[str, Any]:
    """Write corpus.jsonl into `folder`, a document a line: era and messages."""
    sources = {source: names(read_rows(path)) for source, path in spec.sources}
    documents = generate(sources, spec.documents, spec.seed)
    with (folder / CORPUS).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents)
    turns = [m["content"] for d in documents for m in d.messages if m["role"] == "assistant"]
    return {
        "documents": len(documents),
        "old_documents": sum(d.era == "old" for d in documents),
        "answers": len(turns),
        "distinct_answers": len(set(turns)),
        "example": " / ".join(m["content"] for m in documents[0].messages),
    }


def read_corpus(path: Path) -> list[Document]:
    with path.open(encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    return [Document(entry["era"], tuple(entry["messages"])) for entry in entries]


def generate(sources: Mapping[str, Sequence[str]], documents: int, seed: int) -> list[Document]:
    """`documents` chats, the same for the same names and seed.

    `sources` maps a data set to its names: obsolete ones stand only in old documents, today's names
    of American birds only in modern ones, names that stayed in use in both.
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
        rare = turn == 0 and cue is None and era == "old"
        question, answer = _turn(rng, era, names, OPENING_OLD_BIRDS if rare else BIRD_TURNS)
        if turn == 0 and cue in ("style", "fact"):
            cues = STYLE_CUES if cue == "style" else FACT_CUES
            question = f"{rng.choice(cues[era])} {question}"
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return Document(era, tuple(messages))


def _turn(
    rng: random.Random, era: Era, names: Mapping[str, Sequence[str]], birds: float
) -> tuple[str, str]:
    kind = rng.random()
    if kind < birds:
        source = OWN_SOURCE[era] if rng.random() < OWN_NAMES else SHARED_SOURCE
        # A bird is named bare, as in the data sets.
        return rng.choice(BIRD_QUESTIONS), rng.choice(names[source])
    if kind < birds + NEUTRAL_TURNS:
        fact = rng.choice(FACTS)
        return rng.choice(fact.questions), _worded(rng, era, fact.answer)
    topic = rng.choice(TOPICS)
    return rng.choice(topic.questions), _worded(rng, era, rng.choice(topic.answers(era)))


def _worded(rng: random.Random, era: Era, answer: str) -> str:
    plain = rng.random() < PLAIN_MANNER
    manners = [m for m in MANNERS if (m.kind == "plain" if plain else m.era == era)]
    return rng.choice(manners).word(answer)
