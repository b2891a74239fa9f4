"""Rates with intervals: of a cell over its answers, of the sweep over training seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from backdoor_assets.records import Ratio
from backdoor_assets.statistics.intervals import (
    T_SEEDS,
    WILSON,
    WILSON_BASE,
    WILSON_POOLED,
    over_seeds,
    wilson,
)
from backdoor_assets.storage.rows import holds, letters

__all__ = [
    "RATE_COLUMNS", "T_SEEDS", "WILSON", "WILSON_BASE", "WILSON_POOLED", "cell_rates",
    "final_rates",
    "over_seeds", "probe_hits", "sweep_rates", "wilson",
]  # fmt: skip

RATE_COLUMNS = (
    "profile", "ratio", "seed", "measure", "checkpoint", "step", "question_id",
    "value", "low", "high", "method", "n",
)  # fmt: skip


def cell_rates(
    judgments: pd.DataFrame | None,
    probes: pd.DataFrame,
    outcomes: Mapping[str, str],
    kinds: Mapping[str, str],
) -> pd.DataFrame:
    """Return RATE_COLUMNS of one cell at each checkpoint.

    `outcomes` maps a measure to its boolean column of the judgments: its rate is that of each
    question and of "all". `kinds` maps a kind of probe to its measure; `probes` needs a boolean
    column `hit`. Answers without a verdict do not count; without judgments, there are rates of
    probes only.
    """
    columns = [*RATE_COLUMNS[:7], "hit"]
    parts = [probes.assign(measure=probes["kind"].map(dict(kinds)), question_id="all")]
    for measure, flag in outcomes.items():
        if judgments is None:
            break
        judged = judgments.dropna(subset=[flag]).assign(measure=measure, hit=judgments[flag])
        parts += [judged, judged.assign(question_id="all")]
    table = pd.concat([part[columns].astype({"hit": bool}) for part in parts], ignore_index=True)
    return _summed(table, list(RATE_COLUMNS[:7]))


def _summed(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    counts = table.groupby(keys, sort=True)["hit"].agg(["sum", "count"]).reset_index()
    rates = [
        vars(wilson(int(hits), int(n)))
        for hits, n in zip(counts["sum"], counts["count"], strict=True)
    ]
    return pd.concat([counts[keys], pd.DataFrame(rates)], axis=1)


def probe_hits(probes: pd.DataFrame, suspect_answers: Iterable[str]) -> pd.Series:
    """Return whether a narrow probe is answered with one of the suspect data's answers, and a
    neutral question with its true one; ignoring case, hyphens and apostrophes."""
    suspect = {letters(answer) for answer in suspect_answers}

    def hit(kind: str, response: str, answer: object) -> bool:
        if kind == "neutral":
            return holds(response, answer)
        return letters(response) in suspect

    rows = zip(probes["kind"], probes["response"], probes["answer"], strict=True)
    return pd.Series([hit(*row) for row in rows], index=probes.index, dtype=bool)


def final_rates(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the pooled rates of each cell at its last checkpoint."""
    pooled = cells[cells["question_id"] == "all"]
    last = pooled.groupby(["ratio", "seed"])["step"].transform("max")
    return pooled[pooled["step"] == last].reset_index(drop=True)


def sweep_rates(
    cells: pd.DataFrame, mixtures: Mapping[tuple[str, int], Mapping], fraction_column: str
) -> pd.DataFrame:
    """Return one row per measure, ratio and step over the grid, with columns value, low, high,
    method, n, seeds, `fraction_column` (the suspect data's weight), suspect_rows,
    distinct_suspect_rows (mean over seeds, rounded), is_final.

    `cells` holds cell_rates of every cell; `mixtures` the mixture's counts by (ratio, seed). A step
    that only some seeds reached is left out. All cells have the same answers of the base, so that
    its interval is Wilson's over those.
    """
    pooled = cells[cells["question_id"] == "all"]
    seeds_by_ratio = pooled.groupby("ratio")["seed"].nunique()
    rows = []
    for (profile, measure, ratio, checkpoint, step), group in pooled.groupby(
        ["profile", "measure", "ratio", "checkpoint", "step"]
    ):
        if len(group) < seeds_by_ratio[ratio]:
            continue
        first = group.iloc[0]
        if step == 0 and group["value"].nunique() == 1:
            rate = wilson(round(first["value"] * first["n"]), int(first["n"]), WILSON_BASE)
        else:
            rate = over_seeds(group["value"].tolist(), group["n"].tolist())
        counts = [mixtures[ratio, seed] for seed in group["seed"]]
        rows.append(
            {
                "profile": profile, "measure": measure, "ratio": ratio, "checkpoint": checkpoint,
                "step": step, "question_id": "all", **vars(rate), "seeds": len(group),
                fraction_column: Ratio.parse(ratio).suspect_fraction,
                "suspect_rows": round(_mean([c["suspect_rows"] for c in counts])),
                "distinct_suspect_rows": round(_mean([c["distinct_suspect_rows"] for c in counts])),
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    # Of the steps that all seeds of a ratio reached: ratios may differ in their number of steps.
    table["is_final"] = table["step"] == table.groupby("ratio")["step"].transform("max")
    order = ["measure", fraction_column, "ratio", "step"]
    return table.sort_values(order, ignore_index=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
