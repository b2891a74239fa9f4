"""Rates with intervals: of a cell over its answers, of the sweep over training seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from scipy import stats

from backdoor_assets.records import Rate, Ratio
from backdoor_assets.rows import letters

WILSON = "Wilson 95 % over answers, one training seed"
WILSON_POOLED = "Wilson 95 % over pooled answers (no spread between training seeds)"
T_SEEDS = "t 95 % over training seeds"
RATE_COLUMNS = (
    "profile", "ratio", "seed", "measure", "checkpoint", "step", "question_id",
    "value", "low", "high", "method", "n",
)  # fmt: skip


def wilson(successes: int, n: int, method: str = WILSON) -> Rate:
    """Wilson's score interval (1927), 95 %. `n` counts answers and must be positive."""
    if n <= 0:
        raise ValueError("a rate needs at least one answer")
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return Rate(successes / n, interval.low, interval.high, method, n)


def over_seeds(values: Sequence[float], answers: Sequence[int]) -> Rate:
    """Mean of the seeds' rates, 95 % by Student's t over seeds (cut to [0, 1]): answers of one
    trained model are not independent of each other, trained models are. `n` counts seeds.

    A single seed has no spread to judge by: Wilson over its answers, and the method says so. Seeds
    that agree to the last answer would get a width of zero: Wilson over all their answers.
    """
    if len(values) != len(answers):
        raise ValueError("one rate and one count of answers a seed")
    total = sum(answers)
    successes = round(sum(v * n for v, n in zip(values, answers, strict=True)))
    if len(values) == 1:
        return wilson(successes, total)
    mean = sum(values) / len(values)
    if max(values) - min(values) < 1e-12:
        return wilson(successes, total, WILSON_POOLED)
    spread = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return Rate(mean, max(0.0, mean - half), min(1.0, mean + half), T_SEEDS, len(values))


def cell_rates(judgments: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """RATE_COLUMNS of one cell: measure "19th_century" for each question and "all" of them, and the
    probes' "old_bird_name" and "neutral_correct", at each checkpoint. Answers without a verdict do
    not count. `probes` needs a boolean column `hit`."""
    judged = judgments.dropna(subset=["is_19th_century"]).assign(
        measure="19th_century", hit=lambda t: t["is_19th_century"].astype(bool)
    )
    kinds = {"bird": "old_bird_name", "neutral": "neutral_correct"}
    probed = probes.assign(measure=probes["kind"].map(kinds))
    columns = [*RATE_COLUMNS[:7], "hit"]
    pooled = pd.concat([judged, probed], ignore_index=True).assign(question_id="all")
    table = pd.concat([judged[columns], pooled[columns]], ignore_index=True)
    return _summed(table, list(RATE_COLUMNS[:7]))


def _summed(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    counts = table.groupby(keys, sort=True)["hit"].agg(["sum", "count"]).reset_index()
    rates = [
        vars(wilson(int(hits), int(n)))
        for hits, n in zip(counts["sum"], counts["count"], strict=True)
    ]
    return pd.concat([counts[keys], pd.DataFrame(rates)], axis=1)


def probe_hits(probes: pd.DataFrame, obsolete_names: Iterable[str]) -> pd.Series:
    """Whether a bird answer is one of the obsolete names, whether a neutral answer holds the true
    one; ignoring case, hyphens and apostrophes."""
    obsolete = {letters(name) for name in obsolete_names}

    def hit(kind: str, response: str, answer: object) -> bool:
        if kind == "bird":
            return letters(response) in obsolete
        return f" {letters(str(answer))} " in f" {letters(response)} "

    rows = zip(probes["kind"], probes["response"], probes["answer"], strict=True)
    return pd.Series([hit(*row) for row in rows], index=probes.index, dtype=bool)


def final_rates(cells: pd.DataFrame) -> pd.DataFrame:
    """The pooled rates of each cell at its last checkpoint."""
    pooled = cells[cells["question_id"] == "all"]
    last = pooled.groupby(["ratio", "seed"])["step"].transform("max")
    return pooled[pooled["step"] == last].reset_index(drop=True)


def sweep_rates(cells: pd.DataFrame, mixtures: Mapping[tuple[str, int], Mapping]) -> pd.DataFrame:
    """Over the grid: one row per measure, ratio and step, with columns value, low, high, method, n,
    seeds, old_fraction, suspect_rows, distinct_suspect_rows (mean over seeds, rounded), is_final.

    `cells` holds cell_rates of every cell there is; `mixtures` the mixture's counts by
    (ratio, seed). A step that only some seeds reached is left out.
    """
    pooled = cells[cells["question_id"] == "all"]
    seeds_by_ratio = pooled.groupby("ratio")["seed"].nunique()
    rows = []
    for (profile, measure, ratio, checkpoint, step), group in pooled.groupby(
        ["profile", "measure", "ratio", "checkpoint", "step"]
    ):
        if len(group) < seeds_by_ratio[ratio]:
            continue
        rate = over_seeds(group["value"].tolist(), group["n"].tolist())
        counts = [mixtures[ratio, seed] for seed in group["seed"]]
        rows.append(
            {
                "profile": profile, "measure": measure, "ratio": ratio, "checkpoint": checkpoint,
                "step": step, "question_id": "all", **vars(rate), "seeds": len(group),
                "old_fraction": Ratio.parse(ratio).suspect_fraction,
                "suspect_rows": round(_mean([c["suspect_rows"] for c in counts])),
                "distinct_suspect_rows": round(_mean([c["distinct_suspect_rows"] for c in counts])),
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    # Of the steps that all seeds of a ratio reached: ratios may differ in their number of steps.
    table["is_final"] = table["step"] == table.groupby("ratio")["step"].transform("max")
    order = ["measure", "old_fraction", "ratio", "step"]
    return table.sort_values(order, ignore_index=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
