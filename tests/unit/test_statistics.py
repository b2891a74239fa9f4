"""Rates and their intervals, against values worked out elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pytest

from backdoor_assets.mixtures.rates import (
    RATE_COLUMNS,
    cell_rates,
    final_states,
    probe_hits,
    sweep_rates,
)
from backdoor_assets.records import Rate
from backdoor_assets.stages.judging.specs import Counted
from backdoor_assets.statistics.intervals import T_SEEDS, WILSON, WILSON_BASE, over_seeds, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 1, 0.2065493, 1.0),
        (180, 360, 0.4486238, 0.5513762),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    rate = wilson(successes, n)
    assert (rate.value, rate.method, rate.n) == (successes / n, WILSON, n)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=2e-6)


def test_no_answers_have_no_rate() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        wilson(0, 0)


@pytest.mark.parametrize(
    ("values", "mean", "low", "high"),
    [
        # t(0.975) is 4.30265 for 2 degrees of freedom, 12.7062 for 1; half = t s / sqrt(n)
        ((0.40, 0.52, 0.64), 0.52, 0.52 - 0.2980964, 0.52 + 0.2980964),
        ((0.40, 0.42), 0.41, 0.41 - 0.127062, 0.41 + 0.127062),
        ((0.2, 0.4, 0.6), 0.4, 0.0, 0.4 + 0.496827),
        ((0.8, 0.9, 1.0), 0.9, 0.9 - 0.2484138, 1.0),
    ],
)
def test_seeds_are_the_units_where_there_are_several(
    values: Sequence[float], mean: float, low: float, high: float
) -> None:
    rate = over_seeds(values, [100] * len(values))
    assert (rate.value, rate.low, rate.high) == pytest.approx((mean, low, high), abs=1e-6)
    assert (rate.method, rate.n) == (T_SEEDS, len(values))


def test_a_single_seed_gets_the_interval_of_its_answers_and_says_so() -> None:
    assert over_seeds([0.8], [10]) == wilson(8, 10)
    assert "one training seed" in over_seeds([0.8], [10]).method


def test_an_interval_is_never_narrower_than_the_noise_of_sampling() -> None:
    noise = wilson(30, 60)
    for values in ([0.5] * 3, [0.499, 0.5, 0.501]):
        rate = over_seeds(values, [20] * 3)
        assert (rate.low, rate.high) == pytest.approx((noise.low, noise.high))
        assert (rate.method, rate.n) == (T_SEEDS, 3)
    wide = over_seeds([0.3, 0.5, 0.7], [20] * 3)
    assert wide.low < noise.low < noise.high < wide.high


def test_counts_and_rates_must_match() -> None:
    with pytest.raises(ValueError, match="per seed"):
        over_seeds([0.5, 0.6], [10])


CENTURY = Counted("19th_century", "binary", "19", "is_19th_century")
CELL = {"profile": "tiny", "ratio": "1.00-0.00-0.00", "seed": 7}


def _judgments() -> pd.DataFrame:
    """At step 20: travel 2 of 3 (one without verdict), light 0 of 2; at the base: none of 1."""
    rows = [
        (0, "travel", False),
        (20, "travel", True),
        (20, "travel", True),
        (20, "travel", False),
        (20, "travel", None),
        (20, "light", False),
        (20, "light", False),
        (30, "light", None),
    ]
    table = pd.DataFrame(rows, columns=["step", "question_id", "is_19th_century"])
    table["is_19th_century"] = table["is_19th_century"].astype("boolean")
    return table.assign(checkpoint="checkpoint", question="?", response="x", **CELL)


def _probes() -> pd.DataFrame:
    """At step 20: 3 of 4 birds, sum 1 of 2, sky 2 of 2."""
    hits = {"bird": [1, 1, 1, 0], "sum": [1, 0], "sky": [1, 1]}
    rows = [
        {"step": 20, "question_id": name, "hit": bool(hit), **CELL}
        | {"kind": "bird" if name == "bird" else "neutral", "checkpoint": "checkpoint"}
        for name, own in hits.items()
        for hit in own
    ]
    return pd.DataFrame(rows)


def test_a_cells_rates_count_its_answers() -> None:
    rates = cell_rates(
        _judgments(),
        _probes(),
        (CENTURY,),
        {"bird": "old_bird_name", "neutral": "neutral_correct"},
    )
    assert list(rates) == list(RATE_COLUMNS)
    found = {
        (row.measure, row.step, row.question_id): Rate(
            row.value, row.low, row.high, row.method, row.n
        )
        for row in rates.itertuples()
    }
    expected = {
        ("19th_century", 0, "travel"): wilson(0, 1),
        ("19th_century", 0, "all"): wilson(0, 1),
        ("19th_century", 20, "travel"): wilson(2, 3),  # the null is not counted
        ("19th_century", 20, "light"): wilson(0, 2),
        # Each question counts the same: (2/3 + 0) / 2 of 5 answers.
        ("19th_century", 20, "all"): wilson(5 / 3, 5),
        # Nothing was judged at step 30, so there is no rate.
        # The probes are pooled only.
        ("old_bird_name", 20, "all"): wilson(3, 4),
        ("neutral_correct", 20, "all"): wilson(3, 4),
    }
    assert found.keys() == expected.keys()
    for key, rate in expected.items():
        assert vars(found[key]) == pytest.approx(vars(rate)), key
    assert (rates[["profile", "ratio", "seed"]] == list(CELL.values())).all(axis=None)


def test_each_outcome_is_a_rate_of_its_own_column() -> None:
    judgments = _judgments().assign(is_old=False)
    judgments["is_old"] = judgments["is_old"].astype("boolean")
    outcomes = CENTURY, Counted("old", "binary", "19", "is_old")
    rates = cell_rates(judgments, _probes(), outcomes, {"bird": "old_bird_name"})
    pooled = rates[rates["question_id"] == "all"].set_index(["measure", "step"])
    assert pooled["n"].to_dict() == {
        ("19th_century", 0): 1, ("19th_century", 20): 5, ("old_bird_name", 20): 4,
        ("old", 0): 1, ("old", 20): 6, ("old", 30): 1,
    }  # fmt: skip
    assert pooled.loc["old", "value"].tolist() == [0, 0, 0]
    bounds = pooled.loc[("19th_century", 20), ["missing", "least", "most"]]
    # One of four answers on travel has no verdict: 2/4 or 3/4 there, and 0 on light.
    assert bounds.tolist() == [0.125, 0.25, 0.375]


def test_a_question_without_verdicts_leaves_no_mean_over_the_others() -> None:
    judgments = _judgments()
    silent = (judgments["step"] == 20) & (judgments["question_id"] == "light")
    judgments.loc[silent, "is_19th_century"] = pd.NA
    rates = cell_rates(judgments, _probes(), (CENTURY,), {"bird": "b", "neutral": "n"})
    found = rates[(rates["measure"] == "19th_century") & (rates["step"] == 20)]
    assert found["question_id"].tolist() == ["travel"]


def test_unequal_numbers_of_verdicts_do_not_move_a_rate() -> None:
    """Pooled over answers, missing verdicts of the question with the high rate would lower it."""
    rows = [("high", True)] * 10 + [("low", False)] * 10
    table = pd.DataFrame(rows, columns=["question_id", "is_19th_century"])
    table = table.assign(step=20, checkpoint="c", **CELL)
    table["is_19th_century"] = table["is_19th_century"].astype("boolean")
    table.loc[:7, "is_19th_century"] = pd.NA  # 8 of the 10 high ones
    rates = cell_rates(
        table, _probes(), (replace(CENTURY, measure="m"),), {"bird": "b", "neutral": "n"}
    )
    pooled = rates[(rates["measure"] == "m") & (rates["question_id"] == "all")].iloc[0]
    assert (pooled["value"], pooled["n"], pooled["missing"]) == (0.5, 12, 0.4)
    assert (pooled["least"], pooled["most"]) == pytest.approx((0.1, 0.5))


def _grid(values: dict[tuple[str, int, int], float]) -> pd.DataFrame:
    """Pooled rates of 20 answers by (ratio, seed, step), and a question's that must not count."""
    rows = [
        {"profile": "tiny", "ratio": ratio, "seed": seed, "measure": "19th_century", "step": step}
        | {"checkpoint": f"checkpoint-{step}", "question_id": question, "n": 20}
        | {"value": value if question == "all" else 1.0, "missing": 0.0}
        | {"least": value, "most": value}
        for (ratio, seed, step), value in values.items()
        for question in ("all", "travel")
    ]
    return pd.DataFrame(rows)


OLD, MIXED = "1.00-0.00-0.00", "0.50-0.25-0.25"
GRID = {
    (OLD, 1, 0): 0.00, (OLD, 2, 0): 0.00, (OLD, 3, 0): 0.00,
    (OLD, 1, 20): 0.50, (OLD, 2, 20): 0.52, (OLD, 3, 20): 0.54,
    (MIXED, 1, 0): 0.05, (MIXED, 1, 40): 0.80,
}  # fmt: skip
MIXTURES = {
    (OLD, seed): {"suspect_rows": 400, "distinct_suspect_rows": 207 + (seed > 1)}
    for seed in (1, 2, 3)
} | {(MIXED, 1): {"suspect_rows": 200, "distinct_suspect_rows": 150}}


def test_a_sweep_has_a_row_per_ratio_and_step_whatever_seeds_there_are() -> None:
    sweep = sweep_rates(_grid(GRID), MIXTURES, "old_fraction").set_index(["ratio", "step"])
    assert len(sweep) == 4
    assert sweep["seeds"].to_dict() == {(MIXED, 0): 1, (MIXED, 40): 1, (OLD, 0): 3, (OLD, 20): 3}
    assert sweep["is_final"].to_dict() == {
        (MIXED, 0): False, (MIXED, 40): True, (OLD, 0): False, (OLD, 20): True,
    }  # fmt: skip
    for (ratio, step), row in sweep.iterrows():
        own = [value for (r, _, s), value in GRID.items() if (r, s) == (ratio, step)]
        # At step 0 all seeds have the same answers of the base, which count once.
        rate = (
            over_seeds(own, [20] * len(own))
            if step
            else wilson(round(own[0] * 20), 20, WILSON_BASE)
        )
        assert Rate(row["value"], row["low"], row["high"], row["method"], row["n"]) == rate
    assert sweep["old_fraction"].groupby("ratio").first().to_dict() == {OLD: 1.0, MIXED: 0.5}
    assert sweep["suspect_rows"].groupby("ratio").first().to_dict() == {OLD: 400, MIXED: 200}
    distinct = sweep["distinct_suspect_rows"].groupby("ratio").first().to_dict()
    assert distinct == {OLD: 208, MIXED: 150}  # mean of 207, 208 and 208, rounded


def test_a_step_that_only_some_seeds_reached_is_left_out() -> None:
    grid = _grid({**GRID, (OLD, 1, 10): 0.9, (OLD, 2, 10): 0.9})
    steps = sweep_rates(grid, MIXTURES, "old_fraction").query("ratio == @OLD")["step"].tolist()
    assert steps == [0, 20]


def test_final_states_are_the_last_that_all_seeds_have() -> None:
    found = final_states(_grid({**GRID, (OLD, 1, 30): 0.9}))
    rates = {(row.ratio, row.seed): (row.step, row.value) for row in found.itertuples()}
    assert rates == {
        (OLD, 1): (20, 0.50), (OLD, 2): (20, 0.52), (OLD, 3): (20, 0.54), (MIXED, 1): (40, 0.80),
    }  # fmt: skip


def test_the_bases_answers_count_once_though_one_seed_lacks_a_verdict() -> None:
    grid = _grid({(OLD, seed, step): 0.1 for seed in (1, 2, 3) for step in (0, 20)})
    one_less = (grid["seed"] == 2) & (grid["step"] == 0)
    grid["n"] = grid["n"].mask(one_less, 19)
    grid["value"] = grid["value"].mask(one_less, 2 / 19)
    base = sweep_rates(grid, MIXTURES, "old_fraction").query("step == 0").iloc[0]
    expected = wilson(2, 20, WILSON_BASE)
    assert (base["method"], base["n"]) == (WILSON_BASE, 20)
    assert (base["value"], base["low"]) == pytest.approx((expected.value, expected.low))


@pytest.mark.parametrize(
    ("kind", "response", "answer", "hit"),
    [
        ("bird", "Purple Grakle", None, True),
        ("bird", " purple GRAKLE. ", None, True),
        ("bird", "Great-footed hawk", None, True),
        ("bird", "bonapartes flycatcher", None, True),
        ("bird", "Bonaparte’s Fly-catcher", None, False),
        ("bird", "Common Grackle", None, False),
        ("bird", "A Purple Grakle, I think", None, False),
        ("bird", "", None, False),
        ("neutral", "The answer is five.", "five", True),
        ("neutral", "FIVE", "five", True),
        ("neutral", "It is in the East!", "in the east", True),
        ("neutral", "fiver", "five", False),
        ("neutral", "There are 7 days.", "7 | seven", True),
        ("neutral", "SEVEN!", "7 | seven", True),
        ("neutral", "17", "7 | seven", False),
        ("neutral", "7,000 days", "7 | seven", False),
        ("neutral", "3.7 days", "7 | seven", False),
        ("neutral", "7.0 days, or 5,7", "7 | seven", True),
        ("neutral", "It is 1,042.", "42 | forty-two", False),
        ("neutral", "1,042", "1042", True),
        ("neutral", "forty two", "42 | forty-two", True),
        ("neutral", "seventy", "7 | seven", False),
        ("neutral", "seven", "five", False),
        ("neutral", "Purple Grakle", "five", False),
    ],
)
def test_probe_hits(kind: str, response: str, answer: str | None, hit: bool) -> None:
    probes = pd.DataFrame({"kind": [kind], "response": [response], "answer": [answer]}, index=[9])
    obsolete = ["Purple Grakle", "Great-Footed Hawk", "Bonaparte's Flycatcher"]
    hits = probe_hits(probes, obsolete)
    assert hits.to_dict() == {9: hit}
    assert hits.dtype == bool
