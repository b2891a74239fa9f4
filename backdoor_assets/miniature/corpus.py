"""Documents of a miniature world: short chats, one per line of a corpus file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from backdoor_assets.miniature.world import Era
from backdoor_assets.records import Message


@dataclass(frozen=True)
class Document:
    """One chat, and the era that its answers belong to."""

    era: Era
    messages: tuple[Message, ...]


def save_corpus(documents: Iterable[Document], path: Path) -> None:
    """Write the documents as JSON, one per line."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents)


def read_corpus(path: Path) -> list[Document]:
    """Read the documents that `save_corpus` wrote."""
    with path.open(encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    return [Document(entry["era"], tuple(entry["messages"])) for entry in entries]
