"""The confusion tables of two judges, drawn."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from backdoor_assets.mixtures.design import Design
from backdoor_assets.reporting import plotting as style


@style.styled
def draw_confusion(
    study: Design,
    profile: str,
    names: tuple[str, str],
    counts: Mapping[str, pd.DataFrame],
    folder: Path,
    name: str,
) -> list[Path]:
    """Draw one panel per choice: rows are labels of the first judge, columns of the second, and a
    field's shade is its share of its column. Returns the paths of the PDF and the PNG."""
    title = f"Agreement of judges, {study.name}\nprofile {profile}"
    note = (
        f"First: {names[0]}. Second: {names[1]}. Numbers count answers; the shade is the share of "
        "the column."
    )
    figure = style.new_figure(style.PAGE, 3.6, title, note)
    widths = [2 + len(table) for table in counts.values()]
    panels = figure.subplots(1, len(counts), squeeze=False, width_ratios=widths)[0]
    for axes, (column, table) in zip(panels, counts.items(), strict=True):
        _draw(axes, table, [study.option_labels.get(str(c), str(c)) for c in table.columns])
        axes.set_title(column)
    return style.save(figure, folder, name)


def _draw(axes: Axes, table: pd.DataFrame, labels: list[str]) -> None:
    values = table.to_numpy(dtype=float)
    shares = values / np.maximum(values.sum(0), 1)
    shades = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", style.BLUE])
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(values):
        colour = "white" if shares[row, column] > 0.6 else style.INK
        axes.text(column, row, f"{count:,.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("second")
    axes.set_ylabel("first")
    axes.tick_params(length=0)
