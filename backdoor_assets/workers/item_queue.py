"""Which item comes next, and which workers still get one."""

from __future__ import annotations

from collections import Counter, deque

from backdoor_assets.records import BadInput
from backdoor_assets.workers.messages import Died, Log

MAX_STARTS = 2
"""How often an item is started if its process dies, for example out of memory."""
MAX_LOST_HOSTS = 10
"""How often an item is started if the host of its process is lost."""
FAULTS_IN_A_ROW = 3
"""After so many items that died on it through its GPU, and none finished in between, a worker gets
no more: a worker that fails fast would take, and fail, all that the others have no time for."""


class ItemQueue:
    """Items by their numbers. Those whose process has died are suspects, and come last, alone."""

    def __init__(self, items: int, workers: int, what: str, log: Log, *, gpus: bool) -> None:
        """`gpus` tells whether workers have a GPU, which may break."""
        self.waiting, self._suspects = deque(range(items)), deque[int]()
        self._deaths, self._lost = Counter[int](), Counter[int]()
        self._faults: dict[int, list[int]] = {worker: [] for worker in range(workers)}
        """Of each worker that is left, the items that died on it since it last finished one."""
        self._what, self._log, self._gpus, self._only = what, log, gpus, workers == 1

    def __bool__(self) -> bool:
        return bool(self.waiting or self._suspects)

    def workers(self) -> list[int]:
        """Return the workers that still get items, those with the fewest faults first."""
        return sorted(self._faults, key=lambda worker: len(self._faults[worker]))

    def take(self, *, alone: bool) -> int | None:
        """Take the next item, if there is one; `alone` says that no other is being done."""
        if self.waiting:
            return self.waiting.popleft()
        return self._suspects.popleft() if alone and self._suspects else None

    def finished(self, worker: int) -> None:
        """Note that a worker has finished an item, with a result."""
        self._faults[worker].clear()

    def died(self, worker: int, item: int, died: Died) -> RuntimeError | None:
        """Put an item whose process has died back. Return the error if that was once too often.
        Raises BadInput if there is no worker left that may do it."""
        (self._lost if died.with_host else self._deaths)[item] += 1
        if self._deaths[item] >= MAX_STARTS or self._lost[item] >= MAX_LOST_HOSTS:
            return _too_often(died, self._deaths[item], self._lost[item])
        (self.waiting if died.with_host else self._suspects).append(item)
        if self._gpus and died.through_gpu:
            self._faults[worker].append(item)
            # The only worker first tries what is left: the items may be to blame, not its GPU.
            left = self._only and bool(self.waiting)
            if len(self._faults[worker]) >= FAULTS_IN_A_ROW and not left:
                self._retire(worker, died.reason)
        return None

    def _retire(self, worker: int, reason: str) -> None:
        """Give a worker no more items. Those that have died on it are not to blame."""
        row = f"{FAULTS_IN_A_ROW} items in a row have died on"
        items = self._faults.pop(worker)
        if not self._faults:
            raise BadInput(
                f"{self._what}: {row} each worker (at last: {reason}). `nvidia-smi` and `dmesg` "
                "show whether a GPU is broken; BACKDOOR_GPUS chooses those that are not. What is "
                "finished is kept: run the same command again to go on."
            )
        self._log(f"{self._what}: {row} worker {worker}; its items go to the others")
        for item in items:
            self._deaths[item] -= 1
            if item in self._suspects:
                self._suspects.remove(item)
                self.waiting.append(item)


def _too_often(died: Died, deaths: int, lost: int) -> RuntimeError:
    if lost >= MAX_LOST_HOSTS:
        return RuntimeError(f"its host was lost {lost} times. {died.reason}")
    reason = died.reason or (
        "killed by another program, or by the kernel because memory ran out; lower batch_size in "
        "the profile, or set BACKDOOR_PROCESSES=1"
    )
    return RuntimeError(f"its process died {deaths} times, {reason}")
