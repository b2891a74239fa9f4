"""Read tables that stages have written, and name the row and the column that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backdoor_assets.records import BadInput


def read_table(
    path: Path,
    remedy: str,
    columns: Sequence[str] = (),
    texts: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> pd.DataFrame:
    """Return a Parquet table that has `columns`, of which `texts` are text and `numbers` whole
    numbers in every row.

    Raises BadInput that names the file, and the row (from 1) and column of a bad value, and ends
    with the remedy.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {remedy} first")
    try:
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(
            f"{path}: truncated or not Parquet ({error}); {remedy} again to rebuild it"
        ) from error
    missing = [name for name in (*columns, *texts, *numbers) if name not in table.column_names]
    if missing:
        raise BadInput(
            f"{path}: columns are missing: {', '.join(dict.fromkeys(missing))}; {remedy} again to "
            "rebuild it"
        )
    for names, kind, words in ((texts, str, "text"), (numbers, int, "a whole number")):
        for name in names:
            if found := _first_fault(table[name], kind):
                row, fault = found
                raise BadInput(
                    f"{path} row {row}, column {name!r}: {fault}, and it must be {words}; {remedy} "
                    "again to rebuild it"
                )
    return pd.read_parquet(path)


def _first_fault(column: pa.ChunkedArray, kind: type) -> tuple[int, str] | None:
    """Return the row (from 1) of the first value of another kind, and what is wrong with it."""
    for row, value in enumerate(column, 1):
        try:
            plain = value.as_py()
        except UnicodeDecodeError:
            return row, "it is not UTF-8"
        if plain is None:
            return row, "it is null"
        if type(plain) is not kind:
            return row, f"it is {str(plain)[:60]!r} ({value.type})"
    return None
