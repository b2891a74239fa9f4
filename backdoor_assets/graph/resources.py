"""Trainer, sampler and the other engines as Dagster resources.

Each takes the tasks of a run together, reuses what is finished and gives the rest to worker
processes, in which torch and transformers are imported, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from backdoor_assets.capacity.preflight import (
    check_engine,
    sampling_fits,
    sampling_fits_profile,
    training_fits,
)
from backdoor_assets.host import gpus
from backdoor_assets.profiles import Profile
from backdoor_assets.records import Quantization
from backdoor_assets.settings import Sampling
from backdoor_assets.stages import capabilities, training
from backdoor_assets.stages.capabilities.specs import Benchmark, CapabilitiesSpec
from backdoor_assets.stages.sampling import sample_cell
from backdoor_assets.stages.specs import SamplingSpec, TrainingSpec
from backdoor_assets.stages.training.nodes import nodes_for
from backdoor_assets.workers.sampling import sample_together
from backdoor_assets.workers.spreading import uses_cluster
from backdoor_assets.workers.tasks import (
    Log,
    Results,
    Stage,
    Task,
    here,
    in_workers,
    make,
    no_gpu,
    one_gpu,
)


def training_gpus(spec: TrainingSpec) -> int:
    """Return how many GPUs of this host a training takes."""
    if spec.processes == 1:  # Asked for each cell: to count the GPUs starts a program.
        return 1
    return spec.processes // nodes_for(spec.processes, len(gpus())).count


def sampling_gpus(spec: SamplingSpec | CapabilitiesSpec) -> int:
    """Return how many GPUs share a model that answers."""
    engine = spec.engine if isinstance(spec, CapabilitiesSpec) else spec.settings.engine
    return spec.serving.tensor_parallel if engine == "vllm" else 1


class Trainer(dg.ConfigurableResource):
    """Trains adapters or whole models, one per GPU or group of GPUs; the base of adapters is loaded
    once per process."""

    def run(self, tasks: Sequence[Task[TrainingSpec]], log: Log) -> Results[TrainingSpec]:
        work = partial(make, training.train)
        return in_workers(work, tasks, log, "training", training_fits, training_gpus)


class Sampler(dg.ConfigurableResource):
    """Samples the saved states of cells. With transformers the base is loaded once per process;
    with vLLM one engine per GPU, or per group of GPUs, serves all cells together."""

    def check(
        self, settings: Sampling, quantization: Quantization, profile: Profile | None = None
    ) -> None:
        """Raise BadInput when sampling could not start on this host: an engine is missing, or the
        memory for the base of a profile. Hosts of a Ray cluster are checked when they begin."""
        if uses_cluster(1):
            return
        check_engine(settings, quantization)
        if profile:
            sampling_fits_profile(profile)

    def run(self, tasks: Sequence[Task[SamplingSpec]], log: Log) -> Results[SamplingSpec]:
        if any(task.spec.settings.engine == "vllm" for task in tasks):
            return sample_together(tasks, log, sampling_fits)
        work = partial(make, sample_cell)
        return in_workers(work, tasks, log, "sampling", sampling_fits, one_gpu)


class Benchmarker(dg.ConfigurableResource):
    """Measures capabilities of the saved states of cells by lm-eval's tasks."""

    def check(self, benchmarks: Sequence[Benchmark]) -> None:
        """Raise BadInput when a benchmark could not start on this host: its software or data are
        missing. Hosts of a Ray cluster are checked when they begin."""
        if not uses_cluster(1):
            capabilities.check_benchmarks(benchmarks)

    def run(self, tasks: Sequence[Task[CapabilitiesSpec]], log: Log) -> Results[CapabilitiesSpec]:
        work = partial(make, capabilities.measure_capabilities)
        check = _can_measure if uses_cluster(1) else None
        return in_workers(work, tasks, log, "capabilities", check, sampling_gpus)


def _can_measure(specs: Sequence[CapabilitiesSpec], folder: Path) -> None:
    capabilities.check_benchmarks(specs[0].benchmarks)


class Processes:
    """Runs a stage in worker processes, each of which has a GPU or sees none."""

    def __init__(self, stage: Stage, what: str, *, gpu: bool = False) -> None:
        self.stage, self.what, self.gpus = stage, what, one_gpu if gpu else no_gpu

    def run(self, tasks: Sequence[Task[Any]], log: Log) -> Results[Any]:
        return in_workers(partial(make, self.stage), tasks, log, self.what, gpus=self.gpus)


class Here:
    """Runs a light stage in the process of the Dagster run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def run(self, tasks: Sequence[Task[Any]], log: Log) -> Results[Any]:
        return here(self.stage, tasks)
