"""Dose and response under two judges, in one panel."""

from pathlib import Path

import pandas as pd

from backdoor_assets.mixtures.design import Design, Outcome
from backdoor_assets.reporting import plotting as style

LOOKS = (style.BLUE, "o", "-"), (style.VERMILION, "s", (0, (4, 1.5)))


@style.styled
def two_judges(
    study: Design, outcome: Outcome, final: pd.DataFrame, folder: Path, name: str
) -> list[Path]:
    """Draw the rates of the last checkpoint (`final`: rows of a sweep's rates, with a column judge)
    against the share of suspect rows, one line per judge. Returns the paths of PDF and PNG."""
    rows = style.required(final, name, "rates").sort_values(
        [study.fraction_column, "ratio"], kind="stable"
    )
    title = (
        f"{outcome.heading} under two judges, the same answers\n"
        f"profile {style.single(rows, 'profile', name)}"
    )
    note = f"Training seeds per ratio: {style.span(rows['seeds'])}. {style.interval_note(rows)}"
    figure = style.new_figure(style.COLUMN + 0.6, 3.2, title, note)
    axes = figure.add_subplot()
    for shift, (judge, own), look in zip(
        (-0.6, 0.6), rows.groupby("judge", sort=False), LOOKS, strict=False
    ):
        colour, marker, line = look
        at = 100 * own[study.fraction_column] + shift
        axes.vlines(at, own["low"], own["high"], color=colour, linewidth=1)
        axes.plot(
            at, own["value"], color=colour, marker=marker, linestyle=line, label=str(judge),
            clip_on=False,
        )  # fmt: skip
    axes.set_xlim(-3, 103)
    axes.set_xlabel(f"{study.suspect} in the mixture (% of rows)")
    style.share_axis(axes, outcome.share)
    style.legend_above(axes, ncols=1)
    return style.save(figure, folder, name)
