"""The workers of runs on a Ray cluster, as processes of this machine."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import psutil


class Held(NamedTuple):
    """A GPU that a place for a worker has, and for whom."""

    node: str
    gpu: str
    address: str
    """Of the cluster, as its run has it."""


def places(*addresses: str) -> dict[psutil.Process, Held]:
    """The processes that fork the workers of runs with these addresses of the cluster: one per
    place."""
    found = {}
    for process in psutil.process_iter(["environ"]):
        names = process.info["environ"] or {}
        node, address = names.get("RAY_RAYLET_PID"), names.get("BACKDOOR_RAY_ADDRESS")
        if node and address in addresses and forks(process):
            with suppress(psutil.NoSuchProcess):  # It may just have ended.
                if not forks(process.parent()):
                    found[process] = Held(node, names["CUDA_VISIBLE_DEVICES"], address)
    return found


def forks(process: psutil.Process | None) -> bool:
    """Whether a process forks workers, or is one."""
    with suppress(psutil.NoSuchProcess):
        return process is not None and "multiprocessing.forkserver" in " ".join(process.cmdline())
    return False


class Watch(threading.Thread):
    """Looks at the places of runs, by their addresses of the cluster, until it is stopped."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(daemon=True)
        self.addresses = addresses
        self.stopped = threading.Event()
        self.together = 0
        """How often places of two runs were seen at once."""
        self.twice: list[Held] = []
        """GPUs that two places had for longer than one takes to end."""

    def run(self) -> None:
        before: dict[psutil.Process, Held] = {}
        while not self.stopped.wait(1):
            now = places(*self.addresses)
            stayed = [held for process, held in now.items() if process in before]
            self.together += len({held.address for held in stayed}) > 1
            counts = Counter((held.node, held.gpu) for held in stayed)
            self.twice += [held for held in stayed if counts[held.node, held.gpu] > 1]
            before = now

    def stop(self) -> None:
        self.stopped.set()
        self.join()


def kill_one(address: str) -> bool:
    """Kill a worker of a run; return whether there was one."""
    for place in places(address):
        with suppress(psutil.NoSuchProcess):  # It may just have ended.
            for worker in filter(forks, place.children()):
                worker.kill()
                return True
    return False
