"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Line = tuple[str, ...]


def aligned(table: str) -> str:
    """Return a Markdown table with its columns padded, and the lines around it unchanged."""
    lines = table.splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else [line]
        for line in lines
    ]
    wide = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*wide, strict=True)]

    def text(row: list[str]) -> str:
        if len(row) == 1:
            return row[0]
        cells = zip(row, widths, strict=True)
        return "  ".join("-" * width if c == "---" else c.ljust(width) for c, width in cells)

    return "\n".join(map(text, rows))


def columns(lines: Iterable[Line], side: str = ">") -> str:
    """Return names, and values aligned to the right (or "<", left); a line of one cell stands
    unchanged."""
    rows = list(lines)
    wide = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*wide, strict=True)]

    def text(name: str, *cells: str) -> str:
        padded = [f"{cell:{side}{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        return "  ".join(["", f"{name:<{widths[0]}}", *padded]).rstrip()

    return "\n".join(text(*row) if len(row) > 1 else "  " + "".join(row) for row in rows)


def span(values: Sequence[float], form: str = "{:,}") -> str:
    """Return the least and the greatest of the values, or the one that they all are."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
