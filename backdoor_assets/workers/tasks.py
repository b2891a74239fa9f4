"""Artifacts that are wanted, and three ways to make them: here, in worker processes, together in
one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.storage.artifact import Artifact, Made
from backdoor_assets.workers.processes import Outcome, spread

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
) -> Results[Spec]:
    """Reuse what is finished; make the rest in worker processes."""
    settled, missing = split_finished(tasks)
    yield from settled
    if missing and check:
        check([task.spec for task in missing], missing[0].artifact.folder)
    if missing:
        log(f"{what}: {len(missing)} to make, {len(settled)} reused or refused")
        yield from spread(work, missing, log, what)


def in_one_worker(
    work: Callable[[Sequence[Task[Spec]], Progress], list[Outcome[Task[Spec], Made]]],
    tasks: Sequence[Task[Spec]],
    log: Log,
    what: str,
    check: Check,
) -> Results[Spec]:
    """Reuse what is finished; make the rest together, in one worker process."""
    settled, missing = split_finished(tasks)
    yield from settled
    if not missing:
        return
    check([task.spec for task in missing], missing[0].artifact.folder)
    log(f"{what}: {len(missing)} to make together, {len(settled)} reused or refused")
    [together] = spread(work, [missing], log, what)
    if together.result is not None:
        yield from together.result
        return
    # What was finished before the process failed is whole.
    for task in missing:
        found = task.find()
        yield Outcome(task, found, None if found else together.error)


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
