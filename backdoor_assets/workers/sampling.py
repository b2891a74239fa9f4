"""Sampling of all cells of a run through one engine, in one worker process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from backdoor_assets.records import BadInput, Progress
from backdoor_assets.stages.specs import SamplingSpec
from backdoor_assets.storage.artifact import Busy, Made, Making
from backdoor_assets.workers.processes import Outcome, StartAgain
from backdoor_assets.workers.tasks import Task


def sample_together(
    tasks: Sequence[Task[SamplingSpec]], progress: Progress
) -> list[Outcome[Task[SamplingSpec], Made]]:
    """Sample all cells through one engine. A cell is moved in when it has all its answers; one that
    fails keeps what it has, and does not stop the others."""
    from backdoor_assets.stages.sampling.engine import EngineDied
    from backdoor_assets.stages.sampling.row import sample_row

    ended: list[Outcome[Task[SamplingSpec], Made]] = []
    with ExitStack() as held:
        cells: dict[int, Making] = {}
        for number, task in enumerate(tasks):
            try:
                making = held.enter_context(task.artifact.making(task.identity))
            except (BadInput, Busy, OSError) as error:
                ended.append(Outcome(task, None, error))
                continue
            if making.made:
                ended.append(Outcome(task, making.made))
            else:
                cells[number] = making
        specs = {number: (tasks[number].spec, making.folder) for number, making in cells.items()}
        try:
            for number, ending in sample_row(specs, progress):
                made = cells[number].finish(ending) if isinstance(ending, dict) else None
                error = ending if isinstance(ending, BaseException) else None
                ended.append(Outcome(tasks[number], made, error))
        except EngineDied as error:
            raise StartAgain(str(error)) from error
    return ended
