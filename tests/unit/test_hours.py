"""Hours on the clock: what several devices share, and what they cannot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from backdoor_assets.capacity.hours import GPU, Work
from backdoor_assets.host import Host
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.counts import Counts
from backdoor_assets.profiles import MINIATURE, PROFILES
from backdoor_assets.records import BadInput
from backdoor_assets.studies.birds.study import STUDY

NOTHING = Host((), 2**40, 8, 2**50)


def test_cells_train_in_rounds_and_answers_are_shared_freely() -> None:
    training = Work("lora", 10**9, tasks=6)
    one = training.clock(10**9, GPU, 1)
    assert one == pytest.approx(4e18 / 400e12 / 3600) == training.hours(10**9, GPU)
    # Six cells on four GPUs: two rounds.
    assert training.clock(10**9, GPU, 4) == pytest.approx(one / 3)
    assert training.clock(10**9, GPU, 8) == pytest.approx(one / 6)
    sampling = Work("sampling", 10**9, tasks=1)
    assert sampling.clock(10**9, GPU, 8) == pytest.approx(sampling.hours(10**9, GPU) / 8)


def test_what_takes_several_devices_cannot_run_on_fewer() -> None:
    sampling = Work("sampling", 10**9, tasks=1, devices=4)
    assert math.isinf(sampling.clock(10**9, GPU, 1))
    assert sampling.clock(10**9, GPU, 4) == pytest.approx(sampling.hours(10**9, GPU) / 4)


def test_short_steps_take_the_time_of_a_step() -> None:
    small = Work("lora", 1000, tasks=1, steps=3600)
    assert small.hours(10**6, GPU) == GPU.step
    assert Work("lora", 0, tasks=0).clock(10**6, GPU, 8) == 0


def test_the_plan_of_a_large_model_says_how_many_gpus_its_parts_take() -> None:
    plan = STUDY.plan(PROFILES["llama-3.3-70b"], NOTHING)["Tokens and GPU hours"]
    rows = {line.split("  ")[0]: line.split() for line in map(str.strip, plan.splitlines())}
    assert rows["training"][-3] == rows["sampling"][-3] == rows["in all"][-3] == "-"
    assert float(rows["sampling"][-1]) == pytest.approx(float(rows["sampling"][-2]) / 2, rel=0.02)


def test_a_mixtures_training_is_spread_as_its_profile_says(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"batch_size=16 is no multiple of processes=3"):
        replace(MINIATURE, processes=3)
    spread = Counts(Grid.of(STUDY, replace(MINIATURE, processes=4)))
    assert spread.works()["training"].devices == 4
