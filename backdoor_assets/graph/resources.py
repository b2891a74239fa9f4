"""Trainer, sampler and the other engines as Dagster resources.

Each takes the tasks of a run together, reuses what is finished and gives the rest to worker
processes, in which torch and transformers are imported, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dagster as dg

from backdoor_assets.capacity.preflight import sampling_fits, training_fits
from backdoor_assets.stages import capabilities, training
from backdoor_assets.stages.capabilities.specs import Benchmark, CapabilitiesSpec
from backdoor_assets.stages.sampling import sample_cell
from backdoor_assets.stages.specs import SamplingSpec, TrainingSpec
from backdoor_assets.workers.sampling import sample_together
from backdoor_assets.workers.tasks import (
    Log,
    Results,
    Stage,
    Task,
    here,
    in_one_worker,
    in_workers,
    make,
)


class Trainer(dg.ConfigurableResource):
    """Trains adapters or whole models; the base of adapters is loaded once per process."""

    def run(self, tasks: Sequence[Task[TrainingSpec]], log: Log) -> Results[TrainingSpec]:
        return in_workers(partial(make, training.train), tasks, log, "training", training_fits)


class Sampler(dg.ConfigurableResource):
    """Samples the saved states of cells. With transformers the base is loaded once per process;
    with vLLM one engine, in one process, serves all cells together."""

    def run(self, tasks: Sequence[Task[SamplingSpec]], log: Log) -> Results[SamplingSpec]:
        if any(task.spec.settings.engine == "vllm" for task in tasks):
            return in_one_worker(sample_together, tasks, log, "sampling", sampling_fits)
        return in_workers(partial(make, sample_cell), tasks, log, "sampling", sampling_fits)


class Benchmarker(dg.ConfigurableResource):
    """Measures capabilities of the saved states of cells by lm-eval's tasks."""

    def check(self, benchmarks: Sequence[Benchmark]) -> None:
        """Raise BadInput when a benchmark could not start: its software or data are missing."""
        capabilities.check_benchmarks(benchmarks)

    def run(self, tasks: Sequence[Task[CapabilitiesSpec]], log: Log) -> Results[CapabilitiesSpec]:
        return in_workers(
            partial(make, capabilities.measure_capabilities), tasks, log, "capabilities"
        )


class Processes:
    """Runs a stage in worker processes."""

    def __init__(self, stage: Stage, what: str) -> None:
        self.stage, self.what = stage, what

    def run(self, tasks: Sequence[Task[Any]], log: Log) -> Results[Any]:
        return in_workers(partial(make, self.stage), tasks, log, self.what)


class Here:
    """Runs a light stage in the process of the Dagster run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def run(self, tasks: Sequence[Task[Any]], log: Log) -> Results[Any]:
        return here(self.stage, tasks)
