"""Simulate a sweep of an 8B model on 1 to 1,000 GPUs: how long it takes, and what it waits for.

    python -m benchmarks.cluster_simulation [--cells 40 1000] [--gpus 1 2 4 ...] [--csv FILE]

Phases follow each other, as in a run over a box of cells: training, sampling, coherence. Workers
take the next item when they are free, as `workers.spreading` does; answers are cut into shares by
the function that cuts them in a run. Between the phases the process of the run works alone: it
builds tasks, hashes adapters, and records what was made.

Columns: `cells`, `gpus`, `hours` (on the clock), `speedup` (against one GPU), `utilization` (share
of GPU time in which a stage makes progress), and the rest of GPU time as shares: `starting`
(loading a base, starting an engine), `draining` (the last answers of a share, in an engine that
runs empty), `machinery` (GPUs wait for the process of the run), `idle` (nothing is left to take
while others work); `limit` names the largest of these.

The times of `Times` are assumptions where no GPU has measured them; docs/deployment.md says which.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.capacity.hours import GPU
from backdoor_assets.capacity.shapes import parameters
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.profiles import PROFILES
from backdoor_assets.records import BaseModel
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.stages.specs import SamplingSpec
from backdoor_assets.studies.birds.study import STUDY
from backdoor_assets.workers.sampling import Share, _shares

RESULTS = Path(__file__).resolve().parent / "results" / "cluster_simulation.csv"
PROFILE = PROFILES["qwen3-8b"]
STATES = 10
"""Checkpoints of a cell: every 20th of 208 steps."""
GPUS = 1, 2, 4, 8, 16, 64, 256, 1000
CELLS = 40, 1000
"""The published grid, and a large one."""
WAITS = "starting", "draining", "machinery", "idle"


@dataclass(frozen=True)
class Times:
    """Seconds of one GPU, and of the process of the run."""

    training: float
    """Of a cell."""
    answer: float
    """Of one answer, in an engine that is full."""
    scoring: float
    """Of a cell: coherence."""
    load: float = 30.0
    """To start a worker and load the base."""
    engine: float = 60.0
    """To start vLLM, adapters included."""
    drain: float = 15.0
    """By which a share takes longer than its answers: half the time of the longest answer."""
    machinery: float = 0.17
    """Of the run's process, per cell: `benchmarks.scale` at 1,000 cells."""
    hashing: float = 0.7
    """Of the run's process, per cell: the hashes of its adapters, 1 GB."""


def assumed_times() -> Times:
    """Return what `make plan` assumes of an H100 for Qwen3-8B."""
    base = PROFILE.base
    assert isinstance(base, PretrainedBase)
    assert base.shape is not None
    weights, tokens = parameters(base.shape), PROFILE.answer_tokens
    return Times(
        training=208 * GPU.step,
        answer=2 * weights * tokens / GPU.sampling,
        scoring=2 * weights * tokens * answers_of_cell() / GPU.training,
    )


def answers_of_cell() -> int:
    return STATES * sum(question.samples for question in _questions())


def _questions() -> Any:
    return Grid.of(STUDY, PROFILE).study.questions_for(PROFILE.base, PROFILE.sampling)


def cut(cells: int, workers: int) -> list[Share]:
    """Return the shares of answers, as a run over so many workers cuts them."""
    grid = Grid.of(STUDY, PROFILE)
    base, steps = BaseModel("Qwen/Qwen3-8B"), tuple((n, Path()) for n in range(STATES))
    cell = grid.cells()[0]
    spec = SamplingSpec(
        cell, base, steps, _questions(), PROFILE.sampling, PROFILE.serving, base_too=False
    )
    specs = {number: (spec, Path()) for number in range(cells)}
    return list(_shares(specs, {}, workers, 2 * PROFILE.serving.requests))


@dataclass
class Phase:
    """GPU seconds of a phase by what they are spent on, and how long it takes."""

    useful: float
    starting: float
    draining: float
    seconds: float


def run_phase(items: Iterable[float], gpus: int, start: float, drain: float = 0.0) -> Phase:
    """Let workers take items, in seconds of work, in their order. A worker's first item takes
    `start` longer, each item `drain`."""
    listed = list(items)
    workers = min(gpus, len(listed))
    free = [0.0] * workers
    starting, end = 0, 0.0
    for number, work in enumerate(listed):
        at = heapq.heappop(free)
        first = number < workers
        starting += first
        ended = at + work + drain + (start if first else 0.0)
        end = max(end, ended)
        heapq.heappush(free, ended)
    return Phase(sum(listed), starting * start, drain * len(listed), end)


def simulate(cells: int, gpus: int, times: Times) -> dict[str, Any]:
    """Return a row of the table described above."""
    shares = (share.answers * times.answer for share in cut(cells, gpus))
    phases = [
        run_phase([times.training] * cells, gpus, times.load),
        run_phase(shares, gpus, times.engine, times.drain),
        run_phase([times.scoring] * cells, gpus, times.load),
    ]
    alone = cells * (times.machinery + times.hashing)
    seconds = sum(phase.seconds for phase in phases) + alone
    whole = gpus * seconds
    found = {
        "utilization": sum(phase.useful for phase in phases) / whole,
        "starting": sum(phase.starting for phase in phases) / whole,
        "draining": sum(phase.draining for phase in phases) / whole,
        "machinery": gpus * alone / whole,
    }
    found["idle"] = 1 - sum(found.values())
    return {
        "cells": cells,
        "gpus": gpus,
        "hours": seconds / 3600,
        **found,
        "limit": max(WAITS, key=lambda name: found[name]),
    }


def table(cells: Sequence[int], gpus: Sequence[int], times: Times) -> pd.DataFrame:
    """Return the table described above."""
    rows = []
    for grid in cells:
        one = simulate(grid, 1, times)["hours"]
        for number in gpus:
            row = simulate(grid, number, times)
            rows.append(row | {"speedup": one / row["hours"]})
    found = pd.DataFrame(rows)
    return found[["cells", "gpus", "hours", "speedup", "utilization", *WAITS, "limit"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", nargs="+", type=int, default=CELLS)
    parser.add_argument("--gpus", nargs="+", type=int, default=GPUS)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    times = assumed_times()
    print(times)
    found = table(options.cells, options.gpus, times)
    print(found.round(3).to_string(index=False))
    if options.csv:
        found.round(4).to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
