"""Spread jobs over processes: one a core on a CPU, each single-threaded, or one that owns the GPU.

Heavy libraries are loaded in these processes only; the memory they take goes back with them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from multiprocessing.queues import SimpleQueue
from typing import Any, Generic, TypeVar

import psutil

from backdoor_assets.records import BadInput, Progress

Item = TypeVar("Item")
Result = TypeVar("Result")
_Line = tuple[int, float | None, str]
"""Number of a job, how far it is (None: it begins or, with words, its process ends), and words.
SAID stands for a number when a module's logger speaks."""
SAID = -1

MAX_STARTS = 2
"""How often a job is begun when its process dies under it (out of memory, say)."""


class StartAgain(RuntimeError):
    """Raised by a job that only a new process can carry on: counts as a death of its process."""


BYTES_A_PROCESS = 2**30
"""What a worker needs with torch, transformers and the miniature: 0.65 GB were seen."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """A job's result, or the error it ended with."""

    item: Item
    result: Result | None
    error: BaseException | None = None


def processes_for(items: int) -> int:
    """BACKDOOR_PROCESSES, or one a core this process may use, as far as there is memory for them;
    one alone where there is a GPU."""
    asked = os.environ.get("BACKDOOR_PROCESSES")
    if asked:
        if not (asked.isdigit() and int(asked) > 0):
            raise BadInput(
                f"BACKDOOR_PROCESSES={asked!r}: give a whole number above 0, or unset it"
            )
        return min(int(asked), items)
    if glob("/dev/nvidia[0-9]*") or os.path.exists("/dev/dxg"):  # the latter: WSL
        return 1
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
    by_memory = psutil.virtual_memory().available // BYTES_A_PROCESS
    return max(1, min(cores, by_memory, items))


def spread(
    work: Callable[[Item, Progress], Result],
    items: Sequence[Item],
    log: Callable[[str], None],
    what: str,
) -> Iterator[Outcome[Item, Result]]:
    """Yield an outcome for each job, in the order in which they end, and log how far it is.

    A job that raises does not stop the others. A process that dies is replaced, and its job is
    begun once more: the stages resume from what is on disk. `work` must be a function of a module,
    or a `functools.partial` of one: it travels to the process by name.
    """
    waiting = dict(enumerate(items))
    meter = _Meter(len(items), what, log)
    rounds = 0
    while waiting:
        rounds += 1
        meter.confessed.clear()
        # After a death one at a time, so that the job that kills takes no other with it.
        processes = 1 if any(meter.begun.values()) else processes_for(len(waiting))
        # Written at once: a job that dies has said before that it began.
        lines: SimpleQueue[_Line] = multiprocessing.get_context("spawn").SimpleQueue()
        with _pool(processes, lines) as pool:
            try:
                # An executor watches the processes that there were when it last heard of one: each
                # must have answered, or a death is not noticed until another job ends.
                wait([pool.submit(_ready) for _ in range(processes)])
                futures = {pool.submit(_run, work, item, i): i for i, item in waiting.items()}
            except BrokenProcessPool:
                if rounds > MAX_STARTS * len(items):
                    raise
                continue
            for future in _as_they_end(futures, lines, meter):
                number, error = futures[future], future.exception()
                if isinstance(error, BrokenProcessPool):
                    meter.acquit(number)
                    # A process may die before it can say what it began: rounds are limited too.
                    if meter.begun[number] < MAX_STARTS and rounds <= MAX_STARTS * len(items):
                        continue
                    error = RuntimeError(
                        f"its process died {MAX_STARTS} times, "
                        + (
                            meter.last_words.get(number)
                            or "killed from outside or by the kernel for want of memory; lower "
                            "batch_size in the profile, or set BACKDOOR_PROCESSES=1"
                        )
                    )
                item = waiting.pop(number)
                meter.done(number)
                yield Outcome(item, None if error else future.result(), error)


@contextmanager
def _pool(processes: int, lines: SimpleQueue[_Line]) -> Iterator[ProcessPoolExecutor]:
    """A pool that an interrupt ends at once: what is on disk is resumed, the rest not begun."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(lines,))
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
    open_futures = set(futures)
    while open_futures:
        ended, open_futures = wait(open_futures, timeout=0.5, return_when=FIRST_COMPLETED)
        while not lines.empty():
            meter.heard(*lines.get())
        yield from ended


class _Meter:
    """Tells, now and then, how far all jobs are and how long the rest will take."""

    EVERY = 10.0
    """Seconds between two lines."""

    def __init__(self, items: int, what: str, log: Callable[[str], None]) -> None:
        self.shares = [0.0] * items
        self.begun: Counter[int] = Counter()
        self.last_words: dict[int, str] = {}
        self.confessed: set[int] = set()
        self.what, self.log = what, log
        self.started = self.said = time.monotonic()
        self.line = ""
        self.ended = 0

    def heard(self, number: int, share: float | None, line: str) -> None:
        if number == SAID:
            self.log(line)
            return
        if share is None and line:
            self.last_words[number] = line
            self.confessed.add(number)
            self.log(f"{self.what}: {line}")
            return
        if share is None:
            self.begun[number] += 1
            return
        self.shares[number], self.line = max(share, self.shares[number]), line
        self._say()

    def acquit(self, number: int) -> None:
        """A pool dies whole: where another job said that it ends its process, the start of a job
        that said nothing does not count."""
        if self.confessed and number not in self.confessed and self.begun[number]:
            self.begun[number] -= 1

    def done(self, number: int) -> None:
        del self.begun[number]
        self.ended += 1
        self.shares[number], self.line = 1.0, ""
        self._say(last=self.ended == len(self.shares))

    def _say(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self.said < self.EVERY:
            return
        self.said = now
        share, spent = sum(self.shares) / len(self.shares), now - self.started
        rest = f"{spent / share * (1 - share):.0f} s left" if share else "time left unknown"
        where = f" ({self.line})" if self.line else ""
        self.log(
            f"{self.what}: {self.ended} of {len(self.shares)} done, {share:.0%}, "
            f"{spent:.0f} s spent, {rest}{where}"
        )


_lines: SimpleQueue[_Line] | None = None


def _begin(lines: SimpleQueue[_Line]) -> None:
    """First thing in a worker: its environment, before torch is imported."""
    global _lines
    _lines = lines
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    threading.Thread(target=_die_with_parent, daemon=True).start()
    modules = logging.getLogger("backdoor_assets")
    modules.setLevel(logging.INFO)
    modules.addHandler(_ToParent())


class _ToParent(logging.Handler):
    """What a module says in a worker is said in the parent's log."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell(SAID, 0.0, record.getMessage())


def _die_with_parent() -> None:
    """A worker whose parent was killed would go on writing, and hold its locks."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _tell(number: int, share: float | None, line: str) -> None:
    if _lines is not None:
        _lines.put((number, share, line))


def _ready() -> None:
    """A process that has begun can do this."""


def _run(work: Callable[[Item, Progress], Result], item: Item, number: int) -> Result:
    _tell(number, None, "")
    try:
        return work(item, lambda share, line: _tell(number, share, line))
    except StartAgain as error:
        _tell(number, None, str(error))
        os._exit(1)
