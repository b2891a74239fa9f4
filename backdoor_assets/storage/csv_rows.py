"""Read a CSV table that a person filled in."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import read_text


def read_csv(path: Path, remedy: str) -> list[tuple[str, dict[str, str]]]:
    """Read (location, cells by column) of each row; empty cells and empty rows are left out.

    `remedy` is for error messages. Raises BadInput with file and line for broken CSV, a row of
    another length than the header, a column that occurs twice, or a table without rows.
    """
    reader = csv.reader(io.StringIO(read_text(path, remedy), newline=""), strict=True)
    rows: list[tuple[str, dict[str, str]]] = []
    header: list[str] = []
    line = 1
    try:
        for row in reader:
            where, line = f"{path} line {line}", reader.line_num + 1
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = cells
                if len(set(header)) < len(header):
                    raise BadInput(f"{where}: a column occurs twice; give each its own name")
                continue
            if len(cells) != len(header):
                raise BadInput(
                    f"{where}: it has {len(cells)} cells, and the header has {len(header)}. Put "
                    "text that holds commas or line breaks between double quotes."
                )
            rows.append((where, {n: c for n, c in zip(header, cells, strict=True) if c}))
    except csv.Error as error:
        raise BadInput(f"{path} line {line}: broken CSV ({error})") from error
    if not rows:
        raise BadInput(f"{path}: it has no rows. {remedy}")
    return rows
