"""Sampling of all cells of a run with vLLM: one engine per GPU, or per group of GPUs.

The answers of all cells stand in one line, which is cut into shares. A worker that has done one
takes the next, and keeps its engine. Shares get smaller towards the end, so that all GPUs end at
about the same time, and an engine runs empty only a few times (guided self-scheduling,
Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987).
"""

from __future__ import annotations

import math
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backdoor_assets.records import BadInput, Progress
from backdoor_assets.stages.specs import SamplingSpec
from backdoor_assets.storage.artifact import Busy, Making
from backdoor_assets.workers.messages import Log, Outcome, StartAgain
from backdoor_assets.workers.spreading import gpu_workers, spread
from backdoor_assets.workers.tasks import Check, Results, Task, check_hosts, split_finished

if TYPE_CHECKING:
    from backdoor_assets.stages.sampling.needs import Need, Served
    from backdoor_assets.stages.sampling.serving import Servers


@dataclass(frozen=True)
class Share:
    """What a worker answers at once: of some cells, the answers from a number to before another."""

    run: str
    cells: Mapping[int, tuple[SamplingSpec, Path]]
    spans: Mapping[int, tuple[int, int]]
    needs: Mapping[Served, Need]
    """Of their engines, over all cells of the run: the next shares find them open."""

    @property
    def answers(self) -> int:
        return sum(stop - start for start, stop in self.spans.values())


def sample_together(tasks: Sequence[Task[SamplingSpec]], log: Log, check: Check) -> Results:
    """Reuse what is finished; sample the rest. A cell is moved in when it has all its answers; one
    that fails keeps what it has, and does not stop the others."""
    from backdoor_assets.stages.sampling.journal import Journal
    from backdoor_assets.stages.sampling.needs import needs_of

    settled, missing = split_finished(tasks)
    yield from settled
    if not missing:
        return
    check_hosts(missing, log, check, missing[0].spec.serving.tensor_parallel)
    log(f"sampling: {len(missing)} to make together, {len(settled)} reused or refused")
    serving = missing[0].spec.serving
    with ExitStack() as held:
        cells: dict[int, Making] = {}
        for number, task in enumerate(missing):
            try:
                making = held.enter_context(task.artifact.making(task.identity))
            except (BadInput, Busy, OSError) as error:
                yield Outcome(task, None, error)
                continue
            if making.made:
                yield Outcome(task, making.made)
            else:
                cells[number] = making
        specs = {number: (missing[number].spec, making.folder) for number, making in cells.items()}
        gpus = serving.tensor_parallel
        needs = needs_of({number: spec for number, (spec, _) in specs.items()})
        shares = list(_shares(specs, needs, gpu_workers(gpus), 2 * serving.requests))
        left = Counter(number for share in shares for number in share.spans)
        weights = [share.answers for share in shares]
        for outcome in spread(answer_share, shares, log, "sampling", gpus=gpus, weights=weights):
            errors = outcome.result or {}
            for number in outcome.item.spans:
                if number not in left:
                    continue  # another share of it has failed
                left[number] -= 1
                error = outcome.error or errors.get(number)
                if error is not None:
                    del left[number]
                    yield Outcome(missing[number], None, error)
                elif not left[number]:
                    try:
                        made = cells[number].finish(Journal(*specs[number]).finish())
                    except Exception as error:  # noqa: BLE001  it must not stop the others
                        yield Outcome(missing[number], None, error)
                    else:
                        yield Outcome(missing[number], made)


def _shares(
    cells: Mapping[int, tuple[SamplingSpec, Path]],
    needs: Mapping[int, Mapping[Served, Need]],
    workers: int,
    least: int,
) -> Iterator[Share]:
    """Cut the answers of the cells into shares of at least so many. `needs` are those of each
    cell's engines."""
    run = uuid.uuid4().hex
    wanted = {number: _answers(spec) for number, (spec, _) in cells.items()}
    ends = deque[tuple[int, int, int]]()  # cell, and where it starts and stops in the line
    at = 0
    for number, count in sorted(wanted.items(), key=lambda item: cells[item[0]][0].base.location):
        ends.append((number, at, at + count))
        at += count
    start = 0
    while start < at:
        left = at - start
        size = left if workers == 1 else max(least, math.ceil(left / (2 * workers)))
        stop = min(at, start + size)
        while ends[0][2] <= start:
            ends.popleft()
        spans = {}
        for number, first, last in ends:
            if first >= stop:
                break
            spans[number] = max(start, first) - first, min(stop, last) - first
        yield Share(
            run,
            {number: cells[number] for number in spans},
            spans,
            {served: need for number in spans for served, need in needs.get(number, {}).items()},
        )
        start = stop


def _answers(spec: SamplingSpec) -> int:
    states = len(spec.checkpoints) + spec.base_too
    return states * sum(question.samples for question in spec.questions)


_servers: tuple[str, Servers] | None = None
"""The engines of a run in this worker, which its next share finds open."""


def answer_share(share: Share, progress: Progress) -> dict[int, BaseException]:
    """Answer a share, into the journals of its cells. Returns the errors of cells that failed."""
    from backdoor_assets.stages.sampling.engine import EngineDied
    from backdoor_assets.stages.sampling.row import Part, sample_parts
    from backdoor_assets.stages.sampling.serving import Servers

    global _servers
    if _servers is None or _servers[0] != share.run:
        if _servers is not None:
            _servers[1].close()
        _servers = share.run, Servers()
    _servers[1].needs.update(share.needs)
    parts = {number: Part(*share.cells[number], *span) for number, span in share.spans.items()}
    try:
        endings = dict(sample_parts(parts, _servers[1], progress))
    except EngineDied as error:
        raise StartAgain(str(error)) from error
    return {number: error for number, error in endings.items() if error is not None}
