"""How figures show states whose answers have collapsed: faint, with a note that says why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from backdoor_assets.mixtures.form import SHORT_WORDS
from backdoor_assets.reporting import plotting as style

ALPHA = 0.3
LABEL = "collapsed answers"
NOTE = (
    f" Faint: the answers have collapsed: over half are short lines of at most {SHORT_WORDS} "
    "words, or they are under a third as long as the base's."
)


def note(collapsed: Collection[object]) -> str:
    """Return what is added to a figure's note; "" if no state in it has collapsed."""
    return NOTE if collapsed else ""


def colours(colour: str, steps: Sequence[int], collapsed: Collection[int]) -> list[str]:
    """Return the colour of each step's bar."""
    return [style.tint(colour, 1 - ALPHA) if step in collapsed else colour for step in steps]


def handle(colour: str = style.INK) -> Line2D:
    """Return an entry of a legend."""
    return Line2D([], [], color=colour, alpha=ALPHA, marker="o", label=LABEL)


def draw_trend(
    axes: Axes,
    rows: pd.DataFrame,
    collapsed: Collection[int],
    colour: str,
    label: str,
    *,
    band: float = 0.2,
    **line: Any,
) -> None:
    """Draw a line over the steps like `plotting.draw_trend`, faint from the last state before a
    collapse to the first one after it."""
    rows = rows.reset_index(drop=True)
    faint = rows["step"].isin(list(collapsed)).to_numpy(dtype=bool)
    values = ["value", "low", "high"]
    if faint.any():
        near = faint | np.append(faint[1:], False) | np.append(False, faint[:-1])
        weak = rows.copy()
        weak.loc[~near, values] = np.nan
        style.draw_trend(
            axes, weak, colour, "_", band=band * ALPHA, alpha=ALPHA, markeredgewidth=0, **line
        )  # fmt: skip
        rows.loc[faint, values] = np.nan
    style.draw_trend(axes, rows, colour, label, band=band, **line)
