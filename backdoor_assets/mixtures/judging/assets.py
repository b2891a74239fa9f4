"""The assets of a study's judge: its agreement with the gold set, verdicts that it learns from."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Iterator

import dagster as dg
import pandas as pd

from backdoor_assets.claude.prices import PRICES, cost
from backdoor_assets.graph.cells import OWNERS, Force, source_of
from backdoor_assets.graph.describe import Metadata, picture, provenance
from backdoor_assets.graph.materializing import RunLog
from backdoor_assets.graph.roles import tags_of
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.counts import Counts
from backdoor_assets.mixtures.judging import agreement_tables
from backdoor_assets.mixtures.judging.agreement import (
    gold_comparison,
    has_gold_agreement,
    write_agreement,
)
from backdoor_assets.mixtures.judging.gold import read_gold
from backdoor_assets.mixtures.judging.learned import LEARNED, collect, learning, learns
from backdoor_assets.storage.artifact import Made, request_remake
from backdoor_assets.workers.tasks import make

AGREEMENT, POOL = "agreement", "judge_api"
LETTERS_PER_TOKEN = 4
"""Assumed of English."""


def agreement_assets(grid: Grid) -> list[dg.AssetsDefinition]:
    """Return the asset, if the profile has a judge that the study's gold set can measure."""
    if not has_gold_agreement(grid):
        return []
    study = grid.study

    @dg.asset(
        key=[study.name, AGREEMENT],
        group_name=study.name,
        owners=OWNERS,
        kinds={"matplotlib", "parquet"},
        pool=POOL,
        tags=tags_of("judge"),
        code_version=agreement_tables.VERSION,
        metadata=source_of(write_agreement),
        description="How far the judge's verdicts agree with the labels of the gold set, answers "
        "whose right verdicts are known. The sweep's rates are shown corrected for its errors on "
        "them, too.",
    )
    def asset(context: dg.AssetExecutionContext, config: Force) -> dg.MaterializeResult:
        task = gold_comparison(grid, RunLog(context))
        if config.force:
            request_remake([task.artifact])
        return dg.MaterializeResult(metadata=describe(make(write_agreement, task)))

    return [asset]


def learned_assets(grid: Grid) -> list[dg.AssetsDefinition]:
    """Return the copy of the verdicts that the profile's judge learns from, if it does."""
    if not learns(grid):
        return []

    @dg.asset(
        key=[grid.study.name, LEARNED],
        group_name=grid.study.name,
        owners=OWNERS,
        kinds={"parquet"},
        tags=tags_of("judge"),
        code_version="1",
        metadata=source_of(collect),
        description="Verdicts of a language model on answers of this study, from which the judge "
        "without a key learns. Once made, it stays as it is; make it again by force to learn from "
        "all that have been paid for since.",
    )
    def asset(config: Force) -> dg.MaterializeResult:
        task = learning(grid)
        if config.force:
            request_remake([task.artifact])
        made = make(collect, task)
        return dg.MaterializeResult(metadata={**made.manifest.summary, **provenance(made)})

    return [asset]


def describe(made: Made) -> Metadata:
    """What the UI shows: kappa of each rubric as a number, with its interval; a table of both sides
    of the gold set's split; the confusion tables as a picture."""
    table = pd.read_parquet(made.folder / agreement_tables.TABLE)
    shown = table[(table["by"] == "all") & table["measure"].isin(agreement_tables.KAPPAS)]
    numbers: Metadata = {}
    for row in shown[shown["part"] == "all"].to_dict("records"):
        if not pd.isna(row["value"]):
            numbers[f"{row['rubric']}_kappa"] = float(row["value"])
            numbers[f"{row['rubric']}_interval"] = (
                f"{row['low']:.2f} to {row['high']:.2f} (95 % over {row['unit']}, "
                f"n={row['answers']})"
            )
    rows = [
        f"| {row['rubric']} | {row['part']} | {row['measure']} | {agreement_tables.cell(row)} | "
        f"{row['answers']} |"
        for row in shown.to_dict("records")
    ]
    head = ["| rubric | answers | measure | value [95 %] | n |", "|---|---|---|---|---|"]
    summary = {k: v for k, v in made.manifest.summary.items() if k not in ("agreement", "judges")}
    return {
        **numbers,
        "agreement": dg.MetadataValue.md("\n".join([*head, *rows])),
        "judge": made.manifest.summary["judges"][0],
        **summary,
        "confusion": picture((made.folder / f"{agreement_tables.FIGURE}.png").read_bytes()),
        **provenance(made),
    }


def plan_lines(counts: Counts) -> Iterator[tuple[str, str, str]]:
    """Yield what asking a paid judge about the gold set takes, in the columns of the plan's judging
    (what, per cell, in all)."""
    grid, judging = counts.grid, counts.profile.judging
    if not has_gold_agreement(grid) or judging.kind != "claude" or grid.study.gold is None:
        return
    gold = read_gold(grid.study.gold, grid.study)
    calls, into, out = counts.calls()
    length = sum(len(answer.answer) for answer in gold) / LETTERS_PER_TOKEN / len(gold)
    into += round(length) - counts.answer_tokens
    number, batch = calls * len(gold), judging.transport == "batch"
    priced = judging.model in PRICES
    dollars = cost(judging.model, number * into, number * out, batch=batch) if priced else None
    way = f"{judging.model}, {judging.transport}"
    price = "no price" if dollars is None else f"${dollars:.2f}"
    yield f"once, {number:,} calls on {len(gold)} gold answers, {way}", "", price
