"""The figures of the grid of cells: what the dose does, and in which order things move.

`sweep` has one row per measure, ratio and step, pooled over questions and training seeds: profile,
measure, ratio, step, question_id ("all"), value, low, high, method, seeds, the study's fraction
column, distinct_suspect_rows, is_final. Ratios that were not run are absent. Every function writes
`name`.pdf and `name`.png into a folder and returns the two paths. `collapsed` holds the (ratio,
step) at which the answers have lost their form: what is drawn of them is faint.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from backdoor_assets.mixtures.design import Design, NarrowProbe, Outcome
from backdoor_assets.mixtures.figures import faint
from backdoor_assets.reporting import plotting as style
from backdoor_assets.statistics.doses import DoseResponse

States = Collection[tuple[str, int]]
NEUTRAL = "neutral_correct", "Neutral questions", "share of answers\nthat are right"
"""Measure, heading and axis of the neutral questions."""

FIT_NOTE = (
    " Line: Hill curve; dashed: monotone fit; upright line and band: dose of half of the effect."
)
HALF_NOTE = " Upright line and band: the step of half of the change, at {}."


@style.styled
def dose_response(
    study: Design,
    outcome: Outcome | NarrowProbe,
    sweep: pd.DataFrame,
    cells: pd.DataFrame,
    folder: Path,
    present: tuple[int, int],
    name: str = "dose_response",
    collapsed: States = (),
    fits: Mapping[str, DoseResponse] | None = None,
) -> list[Path]:
    """Draw an outcome, or the narrow probe, at the last checkpoint against the fraction and the
    count of suspect rows.

    `cells` has one row per cell (ratio, seed, value), drawn as small points left of its ratio's
    mean and interval. Both panels show the same ratios in the same colours: rows that are drawn
    again and again raise the fraction and leave the count as it is. Ratios with the same fraction
    or count stand side by side, on a grey band that names it. `present` counts the cells that exist
    and those of the whole grid. `fits` are drawn through the points, by axis ("fraction" and
    "count"), with the half-effect dose of the curve, or else of the monotone fit.
    """
    style.required(sweep, name, "rates")
    style.required(cells, name, "cells")
    final = style.rates_of(sweep.loc[sweep["is_final"].astype(bool)], outcome.measure, name)
    final = final.sort_values([study.fraction_column, "ratio"])
    lost = [state in collapsed for state in zip(final["ratio"], final["step"], strict=True)]
    final = final.assign(
        percent=100 * final[study.fraction_column],
        colour=_colours(len(final)),
        alpha=np.where(lost, faint.ALPHA, 1.0),
    )

    title = (
        f"{outcome.heading}: dose and response at the last checkpoint\n"
        f"profile {style.single(sweep, 'profile', name)}"
    )
    note = grid_note(final, *present) + " Small: single cells. Same colours left and right."
    note += faint.note([state for state in lost if state]) + (FIT_NOTE if fits else "")
    lines = bool(fits) + any(lost)
    figure = style.new_figure(style.PAGE, 2.8 + 0.1 * lines, title, note)
    panels = figure.subplots(1, 2, sharey=True)
    most_rows = max(1, *final["distinct_suspect_rows"])
    for axes, x, end, label, fit, unit in (
        (panels[0], "percent", 100, f"{study.suspect} in the mixture (% of rows)", "fraction", 100),
        (panels[1], "distinct_suspect_rows", most_rows, f"distinct rows with {study.suspect}",
         "count", 1),
    ):  # fmt: skip
        if fits and fit in fits:
            _draw_fit(axes, fits[fit], unit)
        means = final.assign(x=_apart(axes, np.asarray(final[x], dtype=float), 0.03 * end))
        own = ["ratio", "x", "colour", "alpha"]
        single = means[own].merge(cells[["ratio", "value"]], on="ratio")
        axes.scatter(
            single["x"] - 0.012 * end, single["value"], s=9, c=single["colour"],
            alpha=0.5 * single["alpha"], linewidth=0, clip_on=False,
        )  # fmt: skip
        axes.vlines(
            means["x"], means["low"], means["high"], color=means["colour"], alpha=means["alpha"],
            linewidth=1,
        )  # fmt: skip
        axes.scatter(
            means["x"], means["value"], s=20, c=means["colour"], alpha=means["alpha"],
            linewidth=0, clip_on=False, zorder=3,
        )  # fmt: skip
        axes.set_xlim(
            min(0, means["x"].min()) - 0.04 * end, max(end, means["x"].max()) + 0.03 * end
        )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(label)
        style.share_axis(axes, outcome.share)
    return style.save(figure, folder, name)


@style.styled
def emergence(
    study: Design,
    outcome: Outcome | None,
    sweep: pd.DataFrame,
    folder: Path,
    present: tuple[int, int],
    name: str = "emergence",
    collapsed: States = (),
    moments: pd.DataFrame | None = None,
) -> list[Path]:
    """Draw the narrow probe and an outcome over the steps, side by side, with one line per ratio;
    without an outcome, the narrow probe and the neutral questions.

    The panels share their axes, so that what moves first is seen; colours run with the fraction of
    suspect rows. `moments` (`effects.emergence_table`) gives the step at which the ratio with most
    suspect rows has half of its change.
    """
    narrow = study.narrow
    measures = {narrow.measure: (narrow.heading, narrow.share)}
    if outcome is None:
        measures[NEUTRAL[0]] = NEUTRAL[1:]
    else:
        measures[outcome.measure] = (outcome.heading, outcome.share)
    rows = {measure: style.rates_of(sweep, measure, name) for measure in measures}
    together = pd.concat(rows.values())
    ratios = ratio_labels(study, together)
    lost = [s for s in zip(together["ratio"], together["step"], strict=True) if s in collapsed]

    title = f"What moves first in training\nprofile {style.single(sweep, 'profile', name)}"
    halves = _half_changes(moments, list(ratios)[-1]) if moments is not None else {}
    note = grid_note(together, *present) + faint.note(lost)
    note += HALF_NOTE.format(list(ratios.values())[-1]) if halves else ""
    lines = bool(lost) + bool(halves)
    figure = style.new_figure(style.PAGE, 2.9 + 0.1 * lines, title, note)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (measure, (heading, share)) in zip(panels, measures.items(), strict=True):
        draw_ratios(axes, rows[measure], ratios, collapsed)
        if measure in halves:
            _draw_half(axes, *halves[measure])
        axes.set_title(heading)
        axes.grid(axis="x")
        style.share_axis(axes, share)
    handles = panels[0].get_legend_handles_labels()[0]
    ratio_legend(figure, study, [faint.handle(), *handles] if lost else handles)
    return style.save(figure, folder, name)


def ratio_labels(study: Design, rows: pd.DataFrame) -> dict[str, str]:
    """Return the label of each ratio, in the order of the suspect fraction."""
    ratios = rows.drop_duplicates("ratio").sort_values([study.fraction_column, "ratio"])
    labels = (100 * ratios[study.fraction_column]).map("{:.3g} %".format)
    # Mixtures with the same fraction differ in their clean rows: only the ratio tells them apart.
    labels = labels.where(~labels.duplicated(keep=False), ratios["ratio"])
    return dict(zip(ratios["ratio"], labels, strict=True))


def draw_ratios(
    axes: Axes, rows: pd.DataFrame, ratios: Mapping[str, str], collapsed: States = ()
) -> None:
    """Draw one line over the steps per ratio."""
    for (ratio, label), colour in zip(ratios.items(), _colours(len(ratios)), strict=True):
        steps = [step for own, step in collapsed if own == ratio]
        line, band = rows.loc[rows["ratio"] == ratio], min(0.15, 0.8 / len(ratios))
        faint.draw_trend(axes, line, steps, colour, label, band=band)


def ratio_legend(figure: Figure, study: Design, handles: Sequence[Any]) -> None:
    """Put the ratios beside the panels."""
    figure.legend(
        handles=handles, loc="outside right center", reverse=True,
        title=study.suspect.replace(" ", "\n", 1), title_fontsize=7,
        ncols=1 + len(handles) // 14,
    )  # fmt: skip


def _draw_fit(axes: Axes, fit: DoseResponse, unit: float) -> None:
    """Draw both fits, and the half-effect dose with its interval as an upright band."""
    axes.plot(
        unit * fit.doses, fit.monotone, color=style.GREY, linestyle=(0, (3, 2)), linewidth=0.8,
        zorder=1,
    )  # fmt: skip
    if fit.curve:
        axes.plot(unit * fit.curve[0], fit.curve[1], color=style.INK, linewidth=0.8, zorder=1)
    half = fit.half_curve or fit.half_monotone
    _draw_half(axes, unit * half.value, unit * half.low, unit * half.high)


def _draw_half(axes: Axes, value: float, low: float, high: float) -> None:
    axes.axvspan(low, high, color=style.tint(style.SKY, 0.75), zorder=0, linewidth=0)
    axes.axvline(value, color=style.GREY, linewidth=0.6, zorder=0)


def _half_changes(moments: pd.DataFrame, ratio: str) -> dict[str, tuple[float, float, float]]:
    """Return value, low and high by measure, where they are known."""
    rows = moments[(moments["ratio"] == ratio) & (moments["moment"] == "half")]
    rows = rows.dropna(subset=["value", "low", "high"])
    return {
        str(row["measure"]): (float(row["value"]), float(row["low"]), float(row["high"]))
        for _, row in rows.iterrows()
    }


def _apart(axes: Axes, at: np.ndarray, slot: float) -> np.ndarray:
    """Where to draw `at`: equal values side by side, from their value to the right as far as there
    is room, on a grey band that says which value it is."""
    places = at.copy()
    for value in np.unique(at):
        tied = np.flatnonzero(at == value)
        if len(tied) == 1:
            continue
        room = min(at[at > value], default=np.inf) - value
        step = min(slot, room / (len(tied) + 1))
        places[tied] += step * np.arange(len(tied))
        left, right = value - 0.5 * step, value + (len(tied) - 0.5) * step
        axes.axvspan(left, right, color=style.BAND)
        axes.text((left + right) / 2, 1.01, f"all {value:,g}", ha="center", va="bottom")
    return places


def _colours(count: int) -> list[str]:
    """One colour per ratio, dark for the last; viridis without its end, too pale for thin lines."""
    scale = matplotlib.colormaps["viridis"]
    return [to_hex(scale(at)) for at in np.linspace(0, 0.85, count)[::-1]]


def grid_note(rows: pd.DataFrame, present: int, planned: int) -> str:
    """How much of the grid is behind the figure, and which interval is drawn."""
    return (
        f"{present:,} of {planned:,} cells; training seeds per ratio: "
        f"{style.span(rows['seeds'])}. {style.interval_note(rows)}"
    )
