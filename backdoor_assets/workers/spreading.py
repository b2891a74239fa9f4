"""Spread items of work over a crew of workers: processes of this host, or of a Ray cluster."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from backdoor_assets.records import Progress
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

MAX_STARTS = 2
"""How often an item is started if its process dies, for example out of memory."""
MAX_LOST_HOSTS = 10
"""How often an item is started if the host of its process is lost."""
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
        """End a worker at once; the next item of its place gets a new one."""
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
    resume from what is on disk. `work` must be a function of a module or a `functools.partial` of
    one, since it is pickled by name.
    """
    meter = Meter(weights or [1.0] * len(items), what, log)
    waiting, suspects = deque(range(len(items))), deque[int]()
    running: dict[int, int] = {}
    deaths, lost = Counter[int](), Counter[int]()
    with _crew(len(items), gpus, log) as crew:
        while waiting or suspects or running:
            for place in range(crew.size):
                alone = not running and not waiting
                queue = waiting or (suspects if alone else None)
                if queue and place not in running:
                    running[place] = queue.popleft()
                    crew.start(place, work, items[running[place]])
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
                    if not waiting:
                        crew.release(place)
                    outcome = Outcome(items[number], message.result, message.error)
                else:
                    crew.dismiss(place)
                    log(f"{what}: {died.reason or 'a process died'}")
                    (lost if died.with_host else deaths)[number] += 1
                    if deaths[number] < MAX_STARTS and lost[number] < MAX_LOST_HOSTS:
                        (waiting if died.with_host else suspects).append(number)
                        time.sleep(0.2)  # until a server that was killed has ended
                        continue
                    error = _too_often(died, deaths[number], lost[number])
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
    if isinstance(message, Ended) and isinstance(message.error, StartAgain):
        return Died(str(message.error))
    return message if isinstance(message, Died) else None


def _too_often(died: Died, deaths: int, lost: int) -> RuntimeError:
    if lost >= MAX_LOST_HOSTS:
        return RuntimeError(f"its host was lost {lost} times. {died.reason}")
    reason = died.reason or (
        "killed by another program, or by the kernel because memory ran out; lower batch_size in "
        "the profile, or set BACKDOOR_PROCESSES=1"
    )
    return RuntimeError(f"its process died {deaths} times, {reason}")
