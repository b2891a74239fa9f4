"""The figure of the sweep that shows whether answers keep their form, over ratios and steps."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from backdoor_assets.mixtures.design import Design
from backdoor_assets.mixtures.figures import sweep_figures
from backdoor_assets.mixtures.form import MEASURES, NO_SPREAD, SAME_BASE, Measure
from backdoor_assets.reporting import plotting as style

COLUMNS = 3


@style.styled
def form(
    study: Design,
    sweep: pd.DataFrame,
    folder: Path,
    present: tuple[int, int],
    name: str = "form",
) -> list[Path]:
    """Draw one panel per measure of form over the steps, with one line per ratio.

    `sweep` is `form.sweep_form`. A measure that no state has is left out. Dotted lines are what a
    state must cross to have collapsed. Writes `name`.pdf and `name`.png and returns the two paths.
    """
    style.required(sweep, name, "measures of form")
    found = [measure for measure in MEASURES if measure.name in set(sweep["measure"])]
    ratios = sweep_figures.ratio_labels(study, sweep)
    profile = style.single(sweep, "profile", name)
    title = f"Do open answers keep their form?\nprofile {profile}"
    spread = sweep[~sweep["method"].isin([NO_SPREAD, SAME_BASE])]
    note = sweep_figures.grid_note(spread if len(spread) else sweep, *present)
    note += " Dotted: what a state crosses when its answers collapse."
    rows = -(-len(found) // COLUMNS)
    figure = style.new_figure(style.PAGE, 0.9 + 1.75 * rows, title, note)
    panels = figure.subplots(rows, COLUMNS, sharex=True, squeeze=False).flatten()
    for axes, measure in zip(panels, found, strict=False):
        own = sweep[sweep["measure"] == measure.name].sort_values("step")
        sweep_figures.draw_ratios(axes, own, ratios)
        axes.set_title(measure.heading)
        axes.set_ylabel(measure.axis)
        axes.grid()
        _set_limits(axes, measure)
        _draw_rule(axes, measure, own)
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for axes in panels[: max(0, len(found) - COLUMNS)]:
        axes.set_xlabel("")
    for axes in panels[max(0, len(found) - COLUMNS) : len(found)]:
        axes.tick_params(labelbottom=True)  # There may be no panel below.
    sweep_figures.ratio_legend(figure, study, panels[0].get_legend_handles_labels()[0])
    return style.save(figure, folder, name)


def _set_limits(axes: Axes, measure: Measure) -> None:
    if measure.top is None:
        axes.set_ylim(0, None)
    elif measure.top == 0:
        axes.set_ylim(None, 0)
    else:
        axes.set_ylim(0, measure.top)


def _draw_rule(axes: Axes, measure: Measure, rows: pd.DataFrame) -> None:
    base = rows.loc[rows["step"] == 0, "value"]
    if measure.name == "words" and len(base):
        axes.axhline(base.iloc[0] / 3, color=style.INK, linestyle=":", linewidth=0.8)
    if measure.name == "short_lines" and len(base) and base.iloc[0] < 0.1:
        axes.axhline(0.5, color=style.INK, linestyle=":", linewidth=0.8)
