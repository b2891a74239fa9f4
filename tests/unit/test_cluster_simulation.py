"""The simulated cluster, against makespans by hand."""

from __future__ import annotations

from pickle import dumps
from typing import Any

import pytest

from benchmarks import cluster_simulation as simulation
from benchmarks.cluster_simulation import Times, answers_of_cell, cut, run_phase, simulate

TIMES = Times(
    training=60.0, answer=0.1, scoring=0.0, load=0.0, engine=0.0, drain=0.0, machinery=0.0,
    hashing=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("items", "gpus", "start", "seconds"),
    [
        ([10, 10, 10, 10], 1, 30, 70),
        ([10, 10, 10, 10], 3, 10, 30),
        ([10, 10, 10, 10], 9, 10, 20),
        ([30, 10, 10, 10], 2, 0, 30),
    ],
)
def test_items_are_taken_by_whoever_is_free(
    items: list[float], gpus: int, start: float, seconds: float
) -> None:
    assert run_phase(items, gpus, start).seconds == seconds


def test_shares_are_those_of_a_run_and_lose_no_answer() -> None:
    for gpus in (1, 3, 64, 1000):
        shares = [share.answers for share in cut(40, gpus)]
        assert sum(shares) == 40 * answers_of_cell()
        assert min(shares[:-1], default=512) >= 512


def test_a_share_weighs_the_same_in_a_larger_grid() -> None:
    """It takes only its own cells to its worker."""
    small, large = (max(len(dumps(share)) for share in cut(cells, cells)) for cells in (10, 1000))
    assert large < 1.1 * small


def test_one_gpu_works_all_the_time_and_many_wait_for_the_longest_cell() -> None:
    row = simulate(2, 1, TIMES)
    assert row["hours"] * 3600 == pytest.approx(2 * 60 + 2 * answers_of_cell() * 0.1)
    assert row["utilization"] == pytest.approx(1)
    many = simulate(2, 1000, TIMES)
    # One training and one share of 512 answers after each other.
    assert many["hours"] * 3600 == pytest.approx(60 + 51.2)
    assert many["limit"] == "idle"


def test_process_of_the_run_is_the_limit_where_it_takes_longest() -> None:
    slow: dict[str, Any] = {**vars(TIMES), "machinery": 1000.0}
    row = simulate(10, 10, Times(**slow))
    assert row["limit"] == "machinery"
    assert row["hours"] > 10 * 1000 / 3600


def test_assumed_times_are_those_of_the_plan() -> None:
    times = simulation.assumed_times()
    assert times.training == 52
    assert 600 < times.answer * answers_of_cell() < 2000
