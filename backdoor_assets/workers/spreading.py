"""Spread items of work over a crew of workers: processes of this host, or of a Ray cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from backdoor_assets.host import blames_gpu, loses_gpu
from backdoor_assets.models.chat import first_line
from backdoor_assets.records import Progress
from backdoor_assets.workers.item_queue import ItemQueue
from backdoor_assets.workers.messages import (
    Advanced,
    Died,
    Ended,
    Item,
    Log,
    Logged,
    Message,
    Meter,
    Outcome,
    Result,
    StartAgain,
)
from backdoor_assets.workers.processes import Processes, gpu_groups, processes_for

RAY = "BACKDOOR_RAY_ADDRESS"
"""Where the Ray cluster is that does the work of GPUs: "local", "auto" or ray://host:port."""


class Crew(Protocol):
    """Workers, each of which does one item at a time."""

    @property
    def size(self) -> int: ...

    def start(self, place: int, work: Callable[..., Any], item: Any) -> None:
        """Let a worker, which may have to be started first, do an item."""
        ...

    def wait(self, seconds: float) -> Iterator[tuple[int, Message]]:
        """Yield what workers have said, and wait for it so many seconds at most."""
        ...

    def release(self, place: int) -> None:
        """Let an idle worker end, which frees its memory and its GPUs."""
        ...

    def dismiss(self, place: int) -> None:
        """End a worker's process at once; the next item of its place gets a new one, on the same
        GPUs."""
        ...

    def close(self, *, kill: bool) -> None: ...


def spread(
    work: Callable[[Item, Progress], Result],
    items: Sequence[Item],
    log: Log,
    what: str,
    *,
    gpus: int = 0,
    weights: Sequence[float] | None = None,
) -> Iterator[Outcome[Item, Result]]:
    """Yield the outcome of each item in the order in which they end, and log the progress.

    An item takes `gpus` GPUs, or one core. `weights` are the items' shares of the work, if they
    differ. An item that raises does not stop the others. A process that dies is replaced, and its
    item is started once more, when the others have ended and with nothing beside it: the stages
    resume from what is on disk. A worker whose GPU seems to be broken gets no more items; raises
    BadInput when none is left. `work` must be a function of a module or a `functools.partial` of
    one, since it is pickled by name.
    """
    meter = Meter(weights or [1.0] * len(items), what, log)
    running: dict[int, int] = {}
    with _crew(len(items), gpus, log) as crew:
        queue = ItemQueue(len(items), crew.size, what, log, gpus=gpus > 0)
        while queue or running:
            for place in queue.workers():
                if place not in running and (number := queue.take(alone=not running)) is not None:
                    running[place] = number
                    crew.start(place, work, items[number])
            for place, message in crew.wait(0.5):
                if isinstance(message, Logged):
                    log(message.text)
                    continue
                number = running.get(place)
                if number is None:  # an idle worker has died
                    continue
                if isinstance(message, Advanced):
                    meter.advance(number, message)
                    continue
                del running[place]
                died = _as_death(message)
                if died is None:
                    assert isinstance(message, Ended)
                    if message.error is None:
                        queue.finished(place)
                    if not queue.waiting:
                        crew.release(place)
                    outcome = Outcome(items[number], message.result, message.error)
                else:
                    crew.dismiss(place)
                    log(f"{what}: {died.reason or 'a process died'}")
                    error = queue.died(place, number, died)
                    if not queue.waiting and not died.through_gpu:
                        crew.release(place)
                    if error is None:
                        time.sleep(0.2)  # until a server that was killed has ended
                        continue
                    if isinstance(message, Ended):
                        error.__cause__ = message.error
                    outcome = Outcome(items[number], None, error)
                meter.done(number)
                yield outcome


@contextmanager
def _crew(items: int, gpus: int, log: Log) -> Iterator[Crew]:
    """Open a crew. An exception, such as an interrupt, ends all its workers at once."""
    crew = _choose(items, gpus, log)
    try:
        yield crew
    except BaseException:
        crew.close(kill=True)
        raise
    crew.close(kill=False)


def uses_cluster(gpus: int) -> bool:
    """Whether work that takes so many GPUs is done by a Ray cluster."""
    return bool(gpus and os.environ.get(RAY))


def _choose(items: int, gpus: int, log: Log) -> Crew:
    if uses_cluster(gpus):
        from backdoor_assets.workers.ray_cluster import RayCrew

        return RayCrew(os.environ[RAY], items, gpus, log)
    return Processes(_places(items, gpus))


def gpu_workers(gpus: int) -> int:
    """Return how many workers with so many GPUs each there are; 1 where there is no GPU."""
    if uses_cluster(gpus):
        from backdoor_assets.workers.ray_cluster import workers_in_cluster

        return workers_in_cluster(os.environ[RAY], gpus)
    return max(1, len(gpu_groups(gpus)))


def _places(items: int, gpus: int) -> list[str | None]:
    """Return what each process of this host is to see of the GPUs."""
    groups = gpu_groups(gpus) if gpus else []
    if groups:
        return groups[:items]
    hidden = None if gpus or not gpu_groups(1) else ""
    return [hidden] * processes_for(items)


def _as_death(message: Message) -> Died | None:
    if isinstance(message, Died):
        return message
    assert isinstance(message, Ended)
    error = message.error
    if error is None:
        return None
    if loses_gpu(str(error)) or isinstance(error, StartAgain):
        return Died(first_line(error), through_gpu=blames_gpu(str(error)))
    return None
