"""Spread items of work over processes: one single-threaded process per core, or one for the GPU.

Heavy libraries are loaded only in these processes, and their memory is freed with them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any, Generic, TypeVar

import psutil

from backdoor_assets.records import BadInput, Progress
from backdoor_assets.workers.starting import Surroundings, context, has_gpu

Item = TypeVar("Item")
Result = TypeVar("Result")
_Line = tuple[int, float | None, str]
"""A message of a worker: the number of an item, its progress in [0, 1] and a text.

A progress of None without a text: the item starts. None with a text: its process exits. The number
LOG_LINE marks a line from a module's logger.
"""
LOG_LINE = -1

MAX_STARTS = 2
"""How often an item is started if its process dies, for example out of memory."""


class StartAgain(RuntimeError):
    """Raised by an item that needs a new process to continue. Counts as a death of its process."""


BYTES_PER_PROCESS = 2**30
"""Memory of a worker with torch, transformers and the miniature; 0.65 GB were measured."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """The result of an item, or the error that ended it."""

    item: Item
    result: Result | None
    error: BaseException | None = None


def processes_for(items: int) -> int:
    """Choose how many processes work on so many items.

    Returns BACKDOOR_PROCESSES if it is set, else 1 with a GPU, else one per core that this process
    may use, as far as memory allows.
    """
    requested = os.environ.get("BACKDOOR_PROCESSES")
    if requested:
        if not re.fullmatch("0*[1-9][0-9]{0,5}", requested):
            raise BadInput(
                f"BACKDOOR_PROCESSES={requested!r}: set it to a whole number above 0, or unset it"
            )
        return min(int(requested), items)
    if has_gpu():
        return 1
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
    by_memory = psutil.virtual_memory().available // BYTES_PER_PROCESS
    return max(1, min(cores, by_memory, items))


def spread(
    work: Callable[[Item, Progress], Result],
    items: Sequence[Item],
    log: Callable[[str], None],
    what: str,
) -> Iterator[Outcome[Item, Result]]:
    """Yield the outcome of each item in the order in which they end, and log the progress.

    An item that raises does not stop the others. A process that dies is replaced, and its item is
    started once more: the stages resume from what is on disk. `work` must be a function of a module
    or a `functools.partial` of one, since it is pickled by name.
    """
    waiting = dict(enumerate(items))
    meter = _Meter(len(items), what, log)
    rounds = 0
    while waiting:
        rounds += 1
        meter.announced.clear()
        # After a death, run one at a time, so that a deadly item takes no other with it.
        processes = 1 if any(meter.starts.values()) else processes_for(len(waiting))
        # Messages are written at once: a dead item has reported its start before.
        lines: SimpleQueue[_Line] = context().SimpleQueue()
        with _pool(processes, lines) as pool:
            try:
                # An executor starts a process only for an item that finds none idle, and watches
                # those that existed at the last call of submit. All must be watched, or a death
                # is noticed only when another item ends.
                started = [pool.submit(_wait_for_all) for _ in range(processes)]
                wait([*started, pool.submit(_return)])
                futures = {pool.submit(_run, work, item, i): i for i, item in waiting.items()}
            except (BrokenProcessPool, EOFError, ConnectionError):  # the last two: no server forks
                if rounds > MAX_STARTS * len(items):
                    raise
                time.sleep(0.2)  # until a server that was killed has ended
                continue
            for future in _as_they_end(futures, lines, meter):
                number, error = futures[future], future.exception()
                if isinstance(error, BrokenProcessPool):
                    meter.discount(number)
                    # A process may die before it reports a start, so rounds are limited too.
                    if meter.starts[number] < MAX_STARTS and rounds <= MAX_STARTS * len(items):
                        continue
                    error = RuntimeError(
                        f"its process died {MAX_STARTS} times, "
                        + (
                            meter.last_words.get(number)
                            or "killed by another program, or by the kernel because memory ran "
                            "out; lower batch_size in the profile, or set BACKDOOR_PROCESSES=1"
                        )
                    )
                item = waiting.pop(number)
                meter.done(number)
                yield Outcome(item, None if error else future.result(), error)


@contextmanager
def _pool(processes: int, lines: SimpleQueue[_Line]) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of processes. An exception, such as an interrupt, ends all of them at once."""
    initial = (lines, Surroundings(), context().Barrier(processes))
    pool = ProcessPoolExecutor(processes, context(), initializer=_begin, initargs=initial)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


def _as_they_end(
    futures: dict[Future[Any], int], lines: SimpleQueue[_Line], meter: _Meter
) -> Iterator[Future[Any]]:
    """Yield each future when it ends, and pass the workers' messages to the meter."""
    open_futures = set(futures)
    while open_futures:
        ended, open_futures = wait(open_futures, timeout=0.5, return_when=FIRST_COMPLETED)
        while not lines.empty():
            meter.receive(*lines.get())
        yield from ended


class _Meter:
    """Logs from time to time the progress of all items and the time left."""

    EVERY = 10.0
    """Seconds between two lines."""

    def __init__(self, items: int, what: str, log: Callable[[str], None]) -> None:
        self.shares = [0.0] * items
        self.starts: Counter[int] = Counter()
        self.last_words: dict[int, str] = {}
        self.announced: set[int] = set()
        self.what, self.log = what, log
        self.started = self.logged = time.monotonic()
        self.line = ""
        self.ended = 0

    def receive(self, number: int, share: float | None, line: str) -> None:
        """Handle one message of a worker; see _Line."""
        if number == LOG_LINE:
            self.log(line)
            return
        if share is None and line:
            self.last_words[number] = line
            self.announced.add(number)
            self.log(f"{self.what}: {line}")
            return
        if share is None:
            self.starts[number] += 1
            return
        self.shares[number], self.line = max(share, self.shares[number]), line
        self._report()

    def discount(self, number: int) -> None:
        """Do not count the start of an item that another item's exit interrupted.

        The death of one process ends the whole pool. If an item announced the exit of its process,
        the others are not to blame.
        """
        if self.announced and number not in self.announced and self.starts[number]:
            self.starts[number] -= 1

    def done(self, number: int) -> None:
        del self.starts[number]
        self.ended += 1
        self.shares[number], self.line = 1.0, ""
        self._report(last=self.ended == len(self.shares))

    def _report(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self.logged < self.EVERY:
            return
        self.logged = now
        share, spent = sum(self.shares) / len(self.shares), now - self.started
        left = f"{spent / share * (1 - share):.0f} s left" if share else "time left unknown"
        where = f" ({self.line})" if self.line else ""
        self.log(
            f"{self.what}: {self.ended} of {len(self.shares)} done, {share:.0%}, "
            f"{spent:.0f} s spent, {left}{where}"
        )


_lines: SimpleQueue[_Line] | None = None
_all_started: Barrier | None = None


def _begin(lines: SimpleQueue[_Line], surroundings: Surroundings, all_started: Barrier) -> None:
    """Set up a worker: its environment, before torch is imported, its streams and its log."""
    global _lines, _all_started
    _lines, _all_started = lines, all_started
    surroundings.take_over()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logger = logging.getLogger("backdoor_assets")
    logger.setLevel(logging.INFO)
    logger.addHandler(_ToParent())


class _ToParent(logging.Handler):
    """Sends the log lines of modules in a worker to the parent's log."""

    def emit(self, record: logging.LogRecord) -> None:
        _send(LOG_LINE, 0.0, record.getMessage())


def _die_with_parent() -> None:
    """Exit with the parent: an orphaned worker would go on writing, and hold its locks."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _send(number: int, share: float | None, line: str) -> None:
    if _lines is not None:
        _lines.put((number, share, line))


def _wait_for_all() -> None:
    """Occupy a process until all have started."""
    if _all_started is not None:
        _all_started.wait()


def _return() -> None:
    """Do nothing."""


def _run(work: Callable[[Item, Progress], Result], item: Item, number: int) -> Result:
    _send(number, None, "")
    try:
        return work(item, lambda share, line: _send(number, share, line))
    except StartAgain as error:
        _send(number, None, str(error))
        os._exit(1)
