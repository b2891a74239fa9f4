"""Hashes of files and of plain values: what identifies data and designs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_once(path: Path) -> str:
    """The same, not computed again while the file is as it was: weights are large, and asked for by
    every cell of a run."""
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    return file_hash(path)


def digest(value: Any) -> str:
    """Hash of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """JSON with sorted keys. Raises ValueError for a number that is not finite."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def identifying(record: DataclassInstance) -> dict[str, Any]:
    """A record's fields for an identity; those marked `records.LATER` only where they are set."""
    unset = {
        f.name
        for f in fields(record)
        if f.metadata.get("later") and getattr(record, f.name) == f.default
    }
    return {name: value for name, value in asdict(record).items() if name not in unset}
