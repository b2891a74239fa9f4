"""Artifacts that are wanted, and two ways to make them: here, or in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from backdoor_assets.records import BadInput, BaseModel, Progress, no_progress
from backdoor_assets.storage.artifact import Artifact, Made
from backdoor_assets.workers.messages import Outcome
from backdoor_assets.workers.spreading import RAY, spread, uses_cluster

Spec = TypeVar("Spec")
Log = Callable[[str], None]
Stage = Callable[[Any, Path, Progress], dict[str, Any]]
"""Does what a spec asks for into a folder, and returns a summary."""


@dataclass(frozen=True)
class Deferred:
    """A stage by its module and name, imported when it is called: the graph can name it without
    loading torch or matplotlib, and it travels to a worker process."""

    module: str
    name: str

    def __call__(self, spec: Any, folder: Path, progress: Progress) -> dict[str, Any]:
        return getattr(import_module(self.module), self.name)(spec, folder, progress)


@dataclass(frozen=True)
class Task(Generic[Spec]):
    """An artifact that is wanted: where it lies, what identifies it, what its stage has to do."""

    artifact: Artifact
    identity: dict[str, Any]
    spec: Spec

    def find(self) -> Made | None:
        """Return the artifact if it is finished. Raises BadInput for an unreadable manifest."""
        return self.artifact.find(self.identity)


Results = Iterator[Outcome[Task[Spec], Made]]


def no_gpu(spec: Any) -> int:
    return 0


def one_gpu(spec: Any) -> int:
    return 1


Check = Callable[[Sequence[Any], Path], None]
"""Raises BadInput when this machine cannot do what the specs ask for, or its disk is too small."""


def make(stage: Stage, task: Task[Any], progress: Progress = no_progress) -> Made:
    """Reuse the task's artifact, or let a stage make it."""
    return task.artifact.make(task.identity, lambda folder: stage(task.spec, folder, progress))


def here(stage: Stage, tasks: Sequence[Task[Spec]]) -> Results[Spec]:
    """Make the artifacts in this process, one after the other: for work that takes less time than
    starting a process."""
    for task in tasks:
        try:
            yield Outcome(task, make(stage, task))
        except Exception as error:  # noqa: BLE001  a cell's failure must not stop the others
            yield Outcome(task, None, error)


def in_workers(
    work: Callable[[Task[Spec], Progress], Made],
    tasks: Sequence[Task[Spec]],
    log: Log,
    what: str,
    check: Check | None = None,
    gpus: Callable[[Spec], int] = no_gpu,
) -> Results[Spec]:
    """Reuse what is finished; make the rest in worker processes. `gpus` tells how many GPUs a spec
    takes, where there are any; those that take most come first."""
    settled, missing = split_finished(tasks)
    yield from settled
    if not missing:
        return
    by_size: dict[int, list[Task[Spec]]] = {}
    for task in missing:
        by_size.setdefault(gpus(task.spec), []).append(task)
    for size, alike in by_size.items():
        check_hosts(alike, log, check, size)
    log(f"{what}: {len(missing)} to make, {len(settled)} reused or refused")
    for size in sorted(by_size, reverse=True):
        yield from spread(work, by_size[size], log, what, gpus=size)


def check_hosts(tasks: Sequence[Task[Spec]], log: Log, check: Check | None, gpus: int) -> None:
    """Raise BadInput where the tasks cannot be done: on this host, or by the check of a host of the
    cluster that does them and if any of its hosts does not see the same files and code."""
    if not tasks:
        return
    specs, folder = [task.spec for task in tasks], tasks[0].artifact.folder
    if not uses_cluster(gpus):
        if check:
            check(specs, folder)
        return
    from backdoor_assets.workers.cluster_hosts import check_cluster
    from backdoor_assets.workers.ray_cluster import do_once, workers_in_cluster

    workers_in_cluster(os.environ[RAY], gpus)  # What no host can do would wait for ever.
    bases = {getattr(spec, "base", None) for spec in specs}
    check_cluster(sorted(b.location for b in bases if isinstance(b, BaseModel)), log)
    if check:
        item = specs, folder
        do_once(os.environ[RAY], gpus, partial(_check, check), item, "capacity", log)


def _check(check: Check, item: tuple[Sequence[Any], Path], progress: Progress) -> None:
    check(*item)


def only(results: Results[Spec]) -> Made:
    """Return the one artifact that was made. Raises the error with which it ended."""
    [outcome] = results
    if outcome.result is None:
        raise outcome.error or RuntimeError("no result")
    return outcome.result


def split_finished(
    tasks: Sequence[Task[Spec]],
) -> tuple[list[Outcome[Task[Spec], Made]], list[Task[Spec]]]:
    """Return outcomes of what is finished or unreadable, and the tasks that are left."""
    settled: list[Outcome[Task[Spec], Made]] = []
    missing = []
    for task in tasks:
        try:
            found = task.find()
        except BadInput as error:
            settled.append(Outcome(task, None, error))
            continue
        if found:
            settled.append(Outcome(task, found))
        else:
            missing.append(task)
    return settled, missing
