"""Hash files and plain values, to identify data and designs."""

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
    """Compute the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_hash(path: Path) -> str:
    """Compute the SHA-256 of a text file, whatever its line ends: it is that of the file with LF
    and without a byte order mark, since these change nothing that is read from it."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()


def hash_once(path: Path) -> str:
    """Compute `file_hash`, cached while size and time of the file do not change.

    Weights are large, and every cell of a run needs their hash.
    """
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    return file_hash(path)


def digest(value: Any) -> str:
    """Hash a JSON value, independent of the order of its keys."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Serialize as JSON with sorted keys. Raises ValueError for a number that is not finite."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def identifying(record: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a record for an identity.

    Leaves out fields marked `records.LATER` that have their default.
    """
    unset = {
        f.name
        for f in fields(record)
        if f.metadata.get("later") and getattr(record, f.name) == f.default
    }
    return {name: value for name, value in asdict(record).items() if name not in unset}
