"""The confusion tables of two judges, drawn."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from backdoor_assets.mixtures.design import Design
from backdoor_assets.reporting import plotting as style

LABELS = "labels of"
"""How the name of a file of labels begins, where one is in the place of the second judge."""


@style.styled
def draw_confusion(
    study: Design,
    profile: str,
    names: tuple[str, str],
    counts: Mapping[str, pd.DataFrame],
    headings: Mapping[str, str],
    folder: Path,
    name: str,
) -> list[Path]:
    """Draw one panel per choice, with its agreement as `headings` gives it: rows are labels of the
    first judge, columns of the second, and a field's shade is its share of its column. Returns the
    paths of the PDF and the PNG."""
    title = f"Agreement of judges, {study.name}\nprofile {profile}"
    note = (
        f"Rows: {names[0]}. Columns: {names[1]}. Numbers count answers; the shade is the share of "
        "the column. [low, high]: 95 %."
    )
    figure = style.new_figure(style.PAGE, 3.8, title, note)
    counted = {outcome.option: outcome.column for outcome in study.outcomes}
    words = {**counted, **study.option_labels}
    gold = names[1].startswith(LABELS)
    sides = ("judge", "right verdict") if gold else ("first judge", "second judge")
    widths = [2 + len(table) for table in counts.values()]
    panels = figure.subplots(1, len(counts), squeeze=False, width_ratios=widths)[0]
    for axes, (column, table) in zip(panels, counts.items(), strict=True):
        _draw(axes, table, [words.get(str(c), str(c)) for c in table.columns], sides)
        axes.set_title(f"{column}\n{headings[column]}")
    return style.save(figure, folder, name)


def _draw(axes: Axes, table: pd.DataFrame, labels: list[str], sides: tuple[str, str]) -> None:
    values = table.to_numpy(dtype=float)
    shares = values / np.maximum(values.sum(0), 1)
    shades = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", style.BLUE])
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(values):
        colour = "white" if shares[row, column] > 0.6 else style.INK
        axes.text(column, row, f"{count:,.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylabel(sides[0])
    axes.set_xlabel(sides[1])
    axes.tick_params(length=0)
