"""Prediction-powered rates: against ppi-python, against all verdicts, and when they stop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backdoor_assets.records import BadInput
from backdoor_assets.statistics.intervals import over_seeds, wilson
from backdoor_assets.statistics.prediction_powered import (
    FIRST_ROUND,
    State,
    first_round,
    judging_order,
    next_batch,
    powered_rate,
    verdicts_needed,
)
from benchmarks import simulated_judges
from benchmarks import verdicts_needed as needed


def drawn(seed: int, seeds: int = 3, errors: float = 0.04) -> simulated_judges.Judged:
    return simulated_judges.draw_state(np.random.default_rng(seed), 0.3, 0.25, seeds, errors)


def test_verdicts_on_all_answers_give_the_plain_rate() -> None:
    one = drawn(1)
    found = one.after(600)
    values = [float(one.state.expensive[one.state.seeds == seed].mean()) for seed in range(3)]
    plain = over_seeds(values, [200] * 3)
    assert (found.rate.value, found.rate.low, found.rate.high) == pytest.approx(
        (plain.value, plain.low, plain.high)
    )
    assert found.effective == pytest.approx(600)
    assert found.half_width(given_answers=True) == 0
    assert next_batch(found, 0.001) == 0


def test_the_mean_and_its_error_are_those_of_ppi_python() -> None:
    """One seed and question: the mean of 400 answers with both verdicts and 3600 with the cheap one
    only, as ppi-python 0.2.3 estimates it with a power of .5 and with its own."""
    at = np.arange(4000)
    cheap = ((at * 7919) % 4000) / 4000
    true = (((at * 104729) % 4001) / 4001 < 0.25 + cheap / 2).astype(float)
    state = State(np.zeros(4000), np.zeros(4000), cheap, np.where(at < 400, true, np.nan))
    # The package compares the labelled answers with the others only, we with all of them.
    fixed = powered_rate(state, 0.5 / 0.9).rate
    assert fixed.value == pytest.approx(0.50597222)
    assert (fixed.low, fixed.high) == pytest.approx((0.45844282, 0.55350163), abs=5e-4)
    tuned = powered_rate(state)
    assert tuned.power * 0.9 == pytest.approx(0.41306086, abs=0.02)
    assert tuned.rate.value == pytest.approx(0.50623787, abs=1e-4)
    assert (tuned.rate.low, tuned.rate.high) == pytest.approx((0.45879164, 0.5536841), abs=5e-4)


def test_a_bad_cheap_judge_costs_width_and_not_truth() -> None:
    """The cheap judge calls the opposite; its verdicts are ignored, and the rate is the mean of the
    expensive ones."""
    one = drawn(2)
    state = State(
        one.state.seeds, one.state.questions, 1 - one.state.expensive, one.state.expensive
    )
    found = simulated_judges.Judged(state, one.order, one.models).after(60)
    bought = one.state.expensive[one.order[:60]]
    assert found.power == 0
    assert found.rate.value == pytest.approx(bought.mean())
    good = one.after(60)
    assert good.effective > 2 * found.effective
    assert good.half_width() < found.half_width()


def test_verdicts_are_bought_of_every_seed_and_question_alike() -> None:
    seeds, questions = np.repeat([1, 2, 3], 40).tolist(), (["a", "b"] * 60)
    order = judging_order(seeds, questions, np.random.default_rng(0).random(120))
    assert sorted(order) == list(range(120))
    for count in (6, 12, 60):
        strata = [(seeds[at], questions[at]) for at in order[:count]]
        assert {strata.count(one) for one in strata} == {count // 6}
    again = judging_order(seeds, questions, np.random.default_rng(0).random(120))
    other = judging_order(seeds, questions, np.random.default_rng(1).random(120))
    assert order.tolist() == again.tolist() != other.tolist()
    assert first_round(seeds, questions) == FIRST_ROUND
    assert first_round(seeds[:4], questions[:4]) == 4


def test_a_question_without_an_expensive_verdict_is_named() -> None:
    one = drawn(3)
    bought = one.state.expensive.copy()
    bought[(one.state.seeds == 2) & (one.state.questions == 7)] = np.nan
    with pytest.raises(BadInput, match="seed 2, question 7: no expensive verdict"):
        powered_rate(State(one.state.seeds, one.state.questions, one.state.cheap, bought))
    with pytest.raises(BadInput, match="at least two expensive verdicts on a question"):
        drawn(3, seeds=1).after(10)
    with pytest.raises(BadInput, match="a verdict on every answer"):
        State(np.zeros(1), np.zeros(1), np.array([np.nan]), np.ones(1))


def test_verdicts_are_bought_until_the_width_is_reached_and_no_longer() -> None:
    one = drawn(4)
    found = one.until(0.05)
    assert found.half_width() <= 0.05
    assert 30 < found.verdicts < 600
    assert one.until(0.2).verdicts == FIRST_ROUND
    # 600 answers alone leave +-.037.
    assert one.until(0.03).verdicts == 600
    # A round at most doubles.
    assert next_batch(one.after(30), 0.03) <= 30


def test_the_number_needed_is_that_of_the_formula() -> None:
    # Half-widths of Wilson's interval at .3: .0498 at 321 verdicts.
    alone = verdicts_needed(0.05, 0.3, 10**7)
    assert alone == pytest.approx(1.96**2 * 0.21 / 0.05**2, rel=0.02)
    assert wilson(0.3 * alone, alone).high - wilson(0.3 * alone, alone).low <= 0.1
    # A kappa of .9 explains .81.
    assert verdicts_needed(0.05, 0.3, 10**7, 0.19) == pytest.approx(0.19 * alone, rel=0.02)
    assert verdicts_needed(0.05, 0.3, 200) == 200
    assert verdicts_needed(0.05, 0.3, 200, given_answers=True) < 150
    with pytest.raises(BadInput, match="must be positive"):
        verdicts_needed(0, 0.3, 600)


def test_a_good_cheap_judge_saves_verdicts() -> None:
    table = needed.table(15, rates=(0.3,), samples=(100,)).set_index(["of", "cheap_judge"])
    assert table.loc[("verdicts", "good"), "fewer"] > 2.5
    assert table.loc[("answers and verdicts", "good"), "fewer"] > 2.5
    assert table.loc[("verdicts", "useless"), "fewer"] == pytest.approx(1, abs=0.2)
    assert 0.85 < table.loc[("verdicts", "good"), "kappa"] < 0.95


def test_the_table_in_the_repository_is_of_this_code() -> None:
    table = pd.read_csv(needed.RESULTS)
    planned = [
        (of, 3 * 10 * samples, rate, judge)
        for of in needed.OF
        for samples in needed.SAMPLES
        for rate in needed.RATES
        for judge in ("none", *simulated_judges.ERRORS)
    ]
    found = table[["of", "answers", "rate", "cheap_judge"]].itertuples(index=False, name=None)
    assert list(found) == planned
    assert (table["studies"] >= 500).all()
    assert (table["half"] <= simulated_judges.HALF).all()
