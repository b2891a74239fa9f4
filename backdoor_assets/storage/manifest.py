"""What is written down of a finished artifact, and how it is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import reason
from backdoor_assets.storage.hashing import digest

MANIFEST = "_manifest.json"
"""The underscore hides it from `pandas.read_parquet(folder)`, which reads whole trees."""


@dataclass(frozen=True)
class Manifest:
    """What an artifact is (identity), what is in it (files, summary) and how it was made."""

    profile: str
    identity: dict[str, Any]
    files: dict[str, dict[str, Any]]
    summary: dict[str, Any]
    provenance: dict[str, Any]
    fingerprint: str = ""

    def reference(self) -> dict[str, str]:
        """What an artifact downstream was made from: by design, and by content (the hash of the
        files' hashes)."""
        content = digest({name: entry["sha256"] for name, entry in self.files.items()})
        return {"fingerprint": self.fingerprint, "content": content}

    def folders(self) -> dict[str, str]:
        """Return the content of each folder in it, such as a checkpoint, as a hash."""
        files: dict[str, dict[str, str]] = {}
        for name, entry in self.files.items():
            folder, inside, file = name.partition("/")
            if inside:
                files.setdefault(folder, {})[file] = entry["sha256"]
        return {folder: digest(hashes) for folder, hashes in files.items()}

    def hashes(self) -> set[str]:
        """All hashes by which an artifact downstream can name it, or a part of it."""
        files = {entry["sha256"] for entry in self.files.values()}
        return {self.reference()["content"], *self.folders().values(), *files}


def read_manifest(path: Path) -> Manifest:
    """Raises BadInput when the file cannot be read, or is no manifest."""
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(manifest.identity, dict) or not isinstance(manifest.summary, dict):
            raise TypeError("its identity and summary are not objects")
        for name, entry in manifest.files.items():
            if type(entry["bytes"]) is not int or type(entry["sha256"]) is not str:
                raise TypeError(f"no size and hash of {name}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{path}: this manifest cannot be read ({reason(error)}); delete the folder "
            f"{path.parent} and materialize it again"
        ) from error
    return manifest


def read_mark(path: Path) -> dict[str, Any]:
    """Return the identity of unfinished work; one that nothing has, if it was not written whole."""
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


@dataclass(frozen=True)
class Made:
    """An artifact that is whole, and whether it was there before."""

    manifest: Manifest
    folder: Path
    reused: bool
    note: str = ""
