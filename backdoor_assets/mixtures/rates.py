"""Tables of rates with intervals: of a cell over its answers, of the grid over training seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from backdoor_assets.records import Rate, Ratio
from backdoor_assets.stages.judging.judge import NOT_DRAWN
from backdoor_assets.stages.judging.specs import Counted
from backdoor_assets.statistics.intervals import WILSON, WILSON_BASE, over_seeds, wilson
from backdoor_assets.statistics.prediction_powered import POWERED_ONE, POWERED_SEEDS
from backdoor_assets.storage.rows import holds, letters

RATE_COLUMNS = (
    "profile", "ratio", "seed", "measure", "checkpoint", "step", "question_id",
    "value", "low", "high", "method", "n", "missing", "least", "most",
)  # fmt: skip
_BOUNDS = ["missing", "least", "most"]
_STATE = list(RATE_COLUMNS[:6])


def cell_rates(
    judgments: pd.DataFrame | None,
    probes: pd.DataFrame,
    outcomes: Sequence[Counted],
    kinds: Mapping[str, str],
) -> pd.DataFrame:
    """Return RATE_COLUMNS of one cell at each checkpoint.

    There is a rate of each outcome for each question, and "all" is the mean over questions, in
    which each counts the same whatever is missing. `kinds` maps a kind of probe to its measure;
    `probes` needs a boolean column `hit`; there is "all" only, over all answers. Without judgments,
    there are rates of probes only.

    An answer without a verdict does not count: `missing` is their share, `n` counts the others,
    `least` and `most` are what the rate would be if all of them were negative or positive. A state
    with a question that has no verdict at all has no "all", because its mean would be one of other
    questions.

    Where the judge was asked about a part of the answers, and a cheap one predicted the others, the
    rate is prediction-powered (see `statistics.prediction_powered`). `missing`, `least` and `most`
    are about the answers that were drawn. `n` of "all" counts effective verdicts, and its value may
    lie a little below 0 or above 1: a mean over seeds of values that were cut off would be biased.
    Of a single question, `n` counts verdicts, because how much the cheap judge explains is known of
    all questions together only.
    """
    parts = [probes.assign(measure=probes["kind"].map(dict(kinds)), question_id="all")]
    tables = [_counted(parts[0], [*_STATE, "question_id"])]
    for outcome in outcomes:
        if judgments is None:
            break
        judged = judgments.assign(measure=outcome.measure, hit=judgments[outcome.flag])
        if outcome.predicted in judgments:
            by_question = _powered(judged, outcome)
            tables.append(_over_questions(by_question))
            shares = by_question[["value", "least", "most"]].clip(0, 1)
            by_question = by_question.assign(n=by_question["verdicts"], **shares)
        else:
            by_question = _counted(judged, [*_STATE, "question_id"])
            tables.append(_over_questions(by_question))
        tables.append(by_question[by_question["n"] > 0])
    columns = ["value", "low", "high", "method", "n"]
    table = pd.concat(tables, ignore_index=True)
    table["method"] = table["method"].fillna(WILSON) if "method" in table else WILSON
    rates = [
        vars(wilson(value * n, n, method))
        for value, n, method in zip(table["value"], table["n"], table["method"], strict=True)
    ]
    table[columns] = pd.DataFrame(rates, columns=columns).to_numpy()
    floats = dict.fromkeys(("value", "low", "high", *_BOUNDS), float)
    found = table[list(RATE_COLUMNS)].astype(floats | {"n": int})
    return found.sort_values(list(RATE_COLUMNS[:7]), ignore_index=True)


def _counted(answers: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Count answers (column `hit`: true, false or null) by keys: value, n, missing, least, most."""
    hits = answers.assign(hit=answers["hit"].astype("boolean"))
    counts = hits.groupby(keys, sort=True)["hit"].agg(["sum", "count", "size"]).reset_index()
    positive, judged, asked = (counts[name].astype(float) for name in ("sum", "count", "size"))
    return counts[keys].assign(
        value=positive / judged,
        n=counts["count"],
        missing=1 - judged / asked,
        least=positive / asked,
        most=1 - (judged - positive) / asked,
    )


def _over_questions(by_question: pd.DataFrame) -> pd.DataFrame:
    """Average over questions, state by state; a state with an unjudged question has no rate."""
    known = by_question.assign(variance=1 / by_question["n"].astype(float))
    states = known.groupby(_STATE, sort=True)
    means = states[["value", *_BOUNDS]].mean().assign(n=states["n"].sum())
    if "method" in known:
        # Of a mean in which each question counts the same.
        means["n"] = states.size() ** 2 / states["variance"].sum()
        means[["least", "most"]] = means[["least", "most"]].clip(0, 1)
        means["method"] = POWERED_ONE
    return means[states["n"].min() > 0].reset_index().assign(question_id="all")


def _powered(judged: pd.DataFrame, outcome: Counted) -> pd.DataFrame:
    """Estimate the rate of each state and question from all predictions, and from the verdicts on
    the answers drawn: the columns of `_counted` with effective verdicts as `n`, `verdicts`
    and `method`."""
    power = judged[outcome.power]
    asked = judged["judge_error"].fillna("") != NOT_DRAWN
    hit = judged["hit"].astype("Float64").where(asked)
    predicted = power * judged[outcome.predicted]
    table = judged.assign(
        predicted=predicted,
        rest=hit - predicted,
        judged=hit.notna(),
        asked=asked,
        # What the answers drawn would add if those without a verdict were negative, or positive.
        if_negative=(hit.fillna(0) - predicted).where(asked),
        if_positive=(hit.fillna(1) - predicted).where(asked),
    )
    keys = [*_STATE, "question_id"]
    groups = table.groupby(keys, sort=True)
    means = groups[["predicted", "rest", "if_negative", "if_positive"]].mean().astype(float)
    verdicts, answers = groups["judged"].sum(), groups.size()
    unexplained = groups[outcome.unexplained].first()
    noise = 1 / answers + unexplained * (1 / verdicts.where(verdicts > 0) - 1 / answers)
    return pd.DataFrame(
        {
            "value": means["predicted"] + means["rest"],
            "n": (1 / noise).fillna(0.0),
            "missing": 1 - verdicts / groups["asked"].sum(),
            "least": means["predicted"] + means["if_negative"],
            "most": means["predicted"] + means["if_positive"],
            "verdicts": verdicts,
            "method": POWERED_ONE,
        }
    ).reset_index()


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


def final_states(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the pooled rates of each cell at the last step that all seeds of its ratio have
    reached in some measure; a measure that a seed lacks there is absent."""
    pooled = cells[cells["question_id"] == "all"]
    common = pooled[_of_all_seeds(pooled)]
    last = common.groupby("ratio")["step"].transform("max")
    return common[common["step"] == last].reset_index(drop=True)


def _of_all_seeds(pooled: pd.DataFrame) -> pd.Series:
    """Return which rows belong to a state that all seeds of the ratio have."""
    seeds = pooled.groupby("ratio")["seed"].transform("nunique")
    return pooled.groupby(["ratio", "measure", "step"])["seed"].transform("nunique") == seeds


def sweep_rates(
    cells: pd.DataFrame, mixtures: Mapping[tuple[str, int], Mapping], fraction_column: str
) -> pd.DataFrame:
    """Return one row per measure, ratio and step over the grid, with columns value, low, high,
    method, n, missing, least, most, seeds, `fraction_column` (the suspect data's weight),
    suspect_rows, distinct_suspect_rows (mean over seeds, rounded), is_final.

    `cells` holds cell_rates of every cell; `mixtures` the mixture's counts by (ratio, seed). A step
    that only some seeds reached is left out. All cells have the same answers of the base, so that
    its interval is Wilson's over those.
    """
    pooled = cells[cells["question_id"] == "all"]
    rows = []
    for (profile, measure, ratio, checkpoint, step), group in pooled[_of_all_seeds(pooled)].groupby(
        ["profile", "measure", "ratio", "checkpoint", "step"]
    ):
        counts = [mixtures[ratio, seed] for seed in group["seed"]]
        rows.append(
            {
                "profile": profile, "measure": measure, "ratio": ratio, "checkpoint": checkpoint,
                "step": step, "question_id": "all", **vars(state_rate(group)),
                **group[_BOUNDS].mean(), "seeds": len(group),
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


def state_rate(group: pd.DataFrame) -> Rate:
    """Average one state over training seeds. The base's answers are shared, and count once: of the
    seeds, that with most verdicts on them."""
    most = group.loc[group["n"].idxmax()]
    powered = POWERED_ONE in set(group.get("method", ()))
    if most["step"] == 0:
        value, method = min(1.0, max(0.0, most["value"])), POWERED_ONE if powered else WILSON_BASE
        return wilson(value * most["n"], int(most["n"]), method)
    values, counts = group["value"].tolist(), group["n"].tolist()
    if not powered:
        return over_seeds(values, counts)
    # Of a mean in which each seed counts the same, whatever its verdicts.
    effective = len(counts) / sum(1 / n for n in counts)
    found = over_seeds(values, [effective] * len(counts))
    value = min(1.0, max(0.0, found.value))
    method = POWERED_SEEDS if len(group) > 1 else POWERED_ONE
    return replace(
        found, value=value, low=min(found.low, value), high=max(found.high, value), method=method
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
