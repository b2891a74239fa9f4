"""Worker processes of this host: one single-threaded process per core, or one per group of GPUs.

Heavy libraries are loaded only in these processes, and their memory is freed with them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from backdoor_assets.host import available_cores, available_memory, gpus, has_gpu
from backdoor_assets.records import BadInput
from backdoor_assets.workers.messages import Advanced, Died, Ended, Logged, Message, portable
from backdoor_assets.workers.starting import Surroundings, context

BYTES_PER_PROCESS = 2**30
"""Memory of a worker with torch, transformers and the miniature; 0.65 GB were measured."""
SECONDS_TO_END = 30.0
"""What an idle worker has to end by itself, before it is ended."""
STARTS = 0.0, 0.5, 2.0
"""Seconds before each attempt to start a process."""
CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
"""Signals by which a process ends through a fault of its own."""


def processes_for(items: int) -> int:
    """Choose how many processes work on so many items without a GPU: BACKDOOR_PROCESSES if it is
    set, else one per core that this process may use, as far as memory allows."""
    cores = min(available_cores(), available_memory() // BYTES_PER_PROCESS)
    return max(1, min(requested_processes() or cores, items))


def gpu_groups(size: int) -> list[str | None]:
    """Return groups of so many GPUs, each as CUDA_VISIBLE_DEVICES takes them; at most
    BACKDOOR_PROCESSES. Empty on a host without GPUs. None stands for a GPU that nvidia-smi does not
    tell apart."""
    ids: list[str] = [gpu.id for gpu in gpus()]
    if not ids:
        return [None] if has_gpu() else []
    starts = range(0, max(1, len(ids) - size + 1), size)
    groups: list[str | None] = [",".join(ids[start : start + size]) for start in starts]
    return groups[: requested_processes() or len(ids)]


def requested_processes() -> int | None:
    """Return BACKDOOR_PROCESSES, if it is set. Raises BadInput."""
    requested = os.environ.get("BACKDOOR_PROCESSES")
    if requested and not re.fullmatch("0*[1-9][0-9]{0,5}", requested):
        raise BadInput(
            f"BACKDOOR_PROCESSES={requested!r}: set it to a whole number above 0, or unset it"
        )
    return int(requested) if requested else None


class Processes:
    """A crew of worker processes on this host. Each starts with its first item, and keeps what it
    has loaded for the next ones."""

    def __init__(self, groups: list[str | None]) -> None:
        """There is one worker per entry: the GPUs that it sees, "" for none, or None for what this
        process sees."""
        self._groups = groups
        self._workers: dict[int, tuple[BaseProcess, Any]] = {}
        self._released: list[BaseProcess] = []

    @property
    def size(self) -> int:
        return len(self._groups)

    def start(self, place: int, work: Callable[..., Any], item: Any) -> None:
        """Let a worker do an item, in a new process if it has none."""
        try:
            if place not in self._workers:
                self._workers[place] = self._begin(self._groups[place])
            self._workers[place][1].send((work, item))
        except (EOFError, ConnectionError):
            # The process has just died, or there is no server to fork it from: `wait` reports it.
            self._workers.setdefault(place, _lost())

    def wait(self, seconds: float) -> Iterator[tuple[int, Message]]:
        """Yield what workers have said, and wait for it so many seconds at most."""
        places = {connection: place for place, (_, connection) in self._workers.items()}
        for connection in wait(list(places), seconds):
            assert isinstance(connection, Connection)
            place = places[connection]
            try:
                while connection.poll():
                    message = connection.recv()
                    yield place, message
                    if isinstance(message, Ended):
                        break
            except (EOFError, OSError):
                died = _death_of(self._workers[place][0])
                self.dismiss(place)
                yield place, died

    def release(self, place: int) -> None:
        """Let an idle worker end, which frees its memory."""
        if place in self._workers:
            process, connection = self._workers.pop(place)
            connection.close()
            if process.pid is not None:
                self._released.append(process)

    def dismiss(self, place: int) -> None:
        """End a worker at once; the next item of its place gets a new one."""
        process = self._workers[place][0] if place in self._workers else None
        self.release(place)
        if process in self._released:
            process.terminate()

    def close(self, *, kill: bool) -> None:
        for place in list(self._workers):
            self.release(place)
        if kill:
            for process in self._released:
                process.terminate()
        for process in self._released:
            process.join(SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()

    @staticmethod
    def _begin(group: str | None) -> tuple[BaseProcess, Any]:
        ours, theirs = context().Pipe()
        surroundings = Surroundings()
        if group is not None:
            surroundings.variables |= {
                "CUDA_VISIBLE_DEVICES": group,
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # in which nvidia-smi numbers them
            }
        try:
            return _started(theirs, surroundings), ours
        finally:
            theirs.close()


def _started(connection: Any, surroundings: Surroundings) -> BaseProcess:
    """Start a process that does items. The server that forks it may have been killed a moment ago,
    and count as alive until the kernel has removed it."""
    for wait_before in STARTS:
        time.sleep(wait_before)
        process = context().Process(target=_serve, args=(connection, surroundings), daemon=False)
        with suppress(EOFError, ConnectionError):
            process.start()
            return process
    raise ConnectionError("there is no server to fork a process from")


def _death_of(process: BaseProcess) -> Died:
    """Return how a process ended that has closed its connection."""
    if process.pid is None:
        return Died()
    process.join(1.0)
    number = -(process.exitcode or 0)
    if number not in CRASHES:
        return Died()
    return Died(f"a process crashed ({signal.Signals(number).name})", through_gpu=True)


def _lost() -> tuple[BaseProcess, Any]:
    """A worker that could not be started: its connection is at its end."""
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    return multiprocessing.Process(), ours


def _serve(connection: Connection, surroundings: Surroundings) -> None:
    """Do items as they come, until the connection is closed. Sets up the environment, before torch
    is imported, the streams and the log."""
    surroundings.take_over()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            connection.send(message)

    follow_log(send)
    while True:
        try:
            work, item = connection.recv()
        except EOFError:
            return
        send(do(work, item, send))


def do(work: Callable[..., Any], item: Any, send: Callable[[Message], None]) -> Ended:
    """Do an item, and say how it goes on."""
    try:
        return Ended(work(item, lambda share, text: send(Advanced(share, text))))
    except Exception as error:  # noqa: BLE001  an item's failure must not stop the others
        return Ended(None, portable(error))


def follow_log(send: Callable[[Message], None]) -> None:
    """Send the lines that this package's modules log."""
    logger = logging.getLogger("backdoor_assets")
    logger.setLevel(logging.INFO)
    logger.handlers = [_ToParent(send)]


class _ToParent(logging.Handler):
    def __init__(self, send: Callable[[Message], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(Logged(record.getMessage()))


def _die_with_parent() -> None:
    """Exit with the parent: an orphaned worker would go on writing, and hold its locks."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
