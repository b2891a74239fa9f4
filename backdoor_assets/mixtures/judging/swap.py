"""Judge the stored answers of a sweep by another judge, beside the first, and compare the rates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.graph.judging import judge_together
from backdoor_assets.mixtures import rates, tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.mixtures.judging.ids import check_one_judge
from backdoor_assets.mixtures.judging.judges import judge_of, label_of, other_judging
from backdoor_assets.mixtures.sweep import is_current
from backdoor_assets.records import BadInput, Rate, Ratio
from backdoor_assets.reporting.text import aligned
from backdoor_assets.stages.judging.judge import KEYS, NOT_DRAWN
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.statistics.intervals import standard_error, t_quantile
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.workers.tasks import Task

Log = Callable[[str], None]
VERSION = "1"
"""Raise it when the same verdicts would give other tables."""
RATES, DIFFERENCES, TEXT = "rates.parquet", "differences.parquet", "judge_swap.md"
PAIRED = "95 % over training seeds (paired t, at least over answers)"
PAIRED_ONE = "95 % over answers, one training seed"


@dataclass
class _Log:
    """Says lines; the rest stands in the manifests."""

    say: Log
    metadata: dict[str, Any] = field(default_factory=dict)

    def __call__(self, line: str) -> None:
        self.say(line)

    def observe(self, metadata: dict[str, Any]) -> None:
        """The line before it says the same."""


def swap(grid: Grid, named: str, log: Log) -> str:
    """Judge all answers of the finished cells by the judge `named` (KIND or KIND:MODEL), into
    `judgments-<judge>`, draw the dose and response under both judges, and return the table.

    Raises BadInput if no cell is finished, or the judge is the one that the cells have.
    """
    settings = other_judging(grid.profile.judging, named)
    other = Grid(grid.study, replace(grid.profile, judging=settings))
    first, second = judge_of(grid), judge_of(other)
    if first.identity == second.identity:
        raise BadInput(f"{named!r} is the judge that this sweep has; name another")
    cells = [cell for cell in grid.cells() if is_current(cell)]
    if not cells:
        raise BadInput(
            f"{grid.folder.path}: no cell is finished under the profile's judge, "
            f"{label_of(first)}; run `backdoor-assets demo --study {grid.study.name}` first"
        )
    check_one_judge(cells)
    name = named.replace(":", "-")
    judged = [_task(cell, other, name) for cell in cells]
    for outcome in judge_together(judged, _Log(log)):
        if outcome.error:
            raise outcome.error
    places = {cell: (cell.artifact("judgments"), _place(cell, name)) for cell in cells}
    artifact = grid.folder.artifact("judge_swap", name)
    identity = {
        "stage": "judge_swap",
        "code": VERSION,
        "cells": {
            str(cell): [place.require().reference() for place in both]
            for cell, both in places.items()
        },
    }
    names = label_of(first), label_of(second)
    made = artifact.make(identity, partial(_write, grid, names, places))
    text = (made.folder / TEXT).read_text(encoding="utf-8")
    return f"{aligned(text)}\nTables and figure: {made.folder}"


def _place(cell: Cell, name: str) -> Artifact:
    return cell.grid.folder.artifact(f"judgments-{name}", cell.ratio.key, cell.seed)


def _task(cell: Cell, other: Grid, name: str) -> Task[Any]:
    """The judging of a cell by the other judge, into a folder beside the first's."""
    wanted = tasks.judging(Cell(other, cell.ratio, cell.seed))
    spec = replace(wanted.spec, earlier=None, earlier_columns=())
    return Task(_place(cell, name), wanted.identity, spec)


def _write(
    grid: Grid,
    names: tuple[str, str],
    places: dict[Cell, tuple[Artifact, Artifact]],
    folder: Path,
) -> dict[str, Any]:
    """Write rates.parquet (columns of a sweep's rates, and judge), differences.parquet,
    judge_swap.md and a dose_response figure of each outcome."""
    outcomes = grid.study.outcomes
    mixtures = {
        (cell.ratio.key, cell.seed): cell.artifact("mixed_dataset").require(edited=True).summary
        for cell in places
    }
    verdicts = [
        pd.concat([pd.read_parquet(both[side].folder / JUDGMENTS) for both in places.values()])
        for side in (0, 1)
    ]
    verdicts = _drawn(verdicts)
    cells = [rates.cell_rates(table, _no_probes(table), outcomes, {}) for table in verdicts]
    fraction = grid.study.fraction_column
    sweeps = [rates.sweep_rates(table, mixtures, fraction) for table in cells]
    both = pd.concat([s.assign(judge=n) for s, n in zip(sweeps, names, strict=True)])
    both.to_parquet(folder / RATES, index=False)
    found = pd.DataFrame([
        {"measure": outcome.measure, "ratio": ratio, **asdict(rate)}
        for outcome in outcomes
        for ratio, rate in _differences(outcome.measure, outcome.flag, cells, verdicts)
    ])  # fmt: skip
    found.to_parquet(folder / DIFFERENCES, index=False)
    summaries = [place.require().summary for pair in places.values() for place in pair]
    measured = sorted({s["judge_agreement"] for s in summaries if "judge_agreement" in s})
    text = "\n".join([*measured, _text(grid, names, both, found)])
    (folder / TEXT).write_text(text, encoding="utf-8")
    from backdoor_assets.mixtures.judging.swap_figure import two_judges

    for outcome in grid.study.outcomes:
        final = both[both["is_final"] & (both["measure"] == outcome.measure)]
        two_judges(grid.study, outcome, final, folder, f"dose_response_{outcome.measure}")
    return {"cells": len(places), "judges": list(names)}


def _drawn(verdicts: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the verdicts of two judges on the answers that both were asked about: where the first
    judge was asked about a part, predictions would differ from the second by chance alone."""
    asked = [table[table["judge_error"].fillna("") != NOT_DRAWN] for table in verdicts]
    keys = ["ratio", "seed", *KEYS]
    both = asked[0][keys].merge(asked[1][keys], on=keys)
    shared = [table.merge(both, on=keys, validate="1:1") for table in asked]
    return [table.drop(columns=table.filter(regex="_predicted$").columns) for table in shared]


def _no_probes(judgments: pd.DataFrame) -> pd.DataFrame:
    """An empty table of probes: the narrow behaviour needs no judge."""
    return judgments.head(0).assign(kind="", hit=pd.array([], dtype="boolean"))


def _differences(
    measure: str, flag: str, cells: list[pd.DataFrame], verdicts: list[pd.DataFrame]
) -> Iterator[tuple[str, Rate]]:
    """Yield the second judge's rate less the first's at the last checkpoint, by ratio."""
    finals = [rates.final_states(table[table["measure"] == measure]) for table in cells]
    keys = ["ratio", "seed", "step"]
    pairs = finals[0].merge(finals[1], on=keys, suffixes=("_first", "_second"))
    answer = [*keys, "question_id", "sample_idx"]
    joined = verdicts[0][[*answer, flag]].merge(
        verdicts[1][[*answer, flag]], on=answer, suffixes=("_first", "_second")
    )
    for ratio, group in pairs.groupby("ratio"):
        same = joined[(joined["ratio"] == ratio) & (joined["step"] == group["step"].iloc[0])]
        columns = [same[f"{flag}_{side}"].astype("Float64") for side in ("second", "first")]
        apart = (columns[0] - columns[1]).dropna().astype(float).tolist()
        by_seed = (group["value_second"] - group["value_first"]).tolist()
        yield str(ratio), paired(by_seed, apart)


def paired(by_seed: list[float], by_answer: list[float]) -> Rate:
    """Average the differences of two judges on the same answers, in [-1, 1].

    `by_seed` has one difference of rates per training seed, `by_answer` a difference of -1, 0 or 1
    per answer. The interval is Student's over seeds, and not narrower than that over answers.
    """
    value, several = statistics.fmean(by_seed), len(by_seed) > 1
    half = t_quantile(math.inf) * standard_error(by_answer) if len(by_answer) > 1 else math.nan
    if several:
        half = max(half, t_quantile(len(by_seed) - 1) * standard_error(by_seed))
    method = PAIRED if several else PAIRED_ONE
    count = len(by_seed) if several else len(by_answer)
    return Rate(value, max(-1.0, value - half), min(1.0, value + half), method, count)


def _text(grid: Grid, names: tuple[str, str], both: pd.DataFrame, found: pd.DataFrame) -> str:
    final = both[both["is_final"]]
    lines = [
        f"First judge: {names[0]}. Second judge: {names[1]}.",
        f"Rates: {'; '.join(sorted(final['method'].unique()))}.",
        f"Differences, second less first: {'; '.join(sorted(found['method'].unique()))}.",
        "",
        "| outcome | ratio | seeds | first judge | second judge | difference |",
        "|---|---|---|---|---|---|",
    ]
    columns = {outcome.measure: outcome.column for outcome in grid.study.outcomes}
    order = sorted(found["ratio"].unique(), key=lambda r: -Ratio.parse(r).suspect_fraction)
    for measure, column in columns.items():
        for ratio in order:
            chosen = final[(final["measure"] == measure) & (final["ratio"] == ratio)]
            first, second = (chosen[chosen["judge"] == name].iloc[0] for name in names)
            difference = found[(found["measure"] == measure) & (found["ratio"] == ratio)].iloc[0]
            cells = [_interval(first), _interval(second), _interval(difference, "+")]
            lines.append(f"| {column} | {ratio} | {first['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(row: pd.Series, sign: str = "") -> str:
    value, low, high = (f"{row[name]:{sign}.2f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
