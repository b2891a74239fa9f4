"""What is written down of a finished artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Made:
    """An artifact that is whole, and whether it was there before."""

    manifest: Manifest
    folder: Path
    reused: bool
    note: str = ""
