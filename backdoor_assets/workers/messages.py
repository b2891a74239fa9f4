"""What workers say while they do an item, and how a long list of items is said to go on."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import Busy

Item = TypeVar("Item")
Result = TypeVar("Result")
Log = Callable[[str], None]


class StartAgain(RuntimeError):
    """Raised by an item that needs a new process to continue. Counts as a death of its process."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """The result of an item, or the error that ended it."""

    item: Item
    result: Result | None
    error: BaseException | None = None


@dataclass(frozen=True)
class Advanced:
    """A worker's item has come so far: a share in [0, 1], and a text."""

    share: float
    text: str


@dataclass(frozen=True)
class Logged:
    """A line of a module's logger in a worker."""

    text: str


@dataclass(frozen=True)
class Ended:
    """An item has ended, with a result or an error."""

    result: Any
    error: BaseException | None = None


@dataclass(frozen=True)
class Died:
    """A worker is gone, with the item that it was doing."""

    reason: str = ""
    with_host: bool = False
    """Its host is gone, or cannot be reached: the item is not to blame."""
    through_gpu: bool = False
    """An error of the GPU, or a crash, which a broken GPU may cause."""


Message = Advanced | Logged | Ended | Died


def portable(error: BaseException) -> BaseException:
    """Return the error so that another process can read it, with its traceback as a note unless its
    message says what to do."""
    if not isinstance(error, BadInput | Busy):
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  of this process
    except Exception:  # noqa: BLE001  whatever an exception's class does when it is pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Meter:
    """Logs from time to time the progress of all items and the time left."""

    EVERY = 10.0
    """Seconds between two lines."""

    def __init__(self, weights: Sequence[float], what: str, log: Log) -> None:
        """`weights` are the items' shares of the work, of any sum."""
        self.weights, self.what, self.log = weights, what, log
        self.shares = [0.0] * len(weights)
        self.started = self.logged = time.monotonic()
        self.line = ""
        self.ended = 0

    def advance(self, number: int, message: Advanced) -> None:
        self.shares[number], self.line = max(message.share, self.shares[number]), message.text
        self._report()

    def done(self, number: int) -> None:
        self.ended += 1
        self.shares[number], self.line = 1.0, ""
        self._report(last=self.ended == len(self.shares))

    def _report(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self.logged < self.EVERY:
            return
        self.logged = now
        done = sum(w * share for w, share in zip(self.weights, self.shares, strict=True))
        share, spent = done / sum(self.weights), now - self.started
        left = f"{spent / share * (1 - share):.0f} s left" if share else "time left unknown"
        where = f" ({self.line})" if self.line else ""
        self.log(
            f"{self.what}: {self.ended} of {len(self.shares)} done, {share:.0%}, "
            f"{spent:.0f} s spent, {left}{where}"
        )
