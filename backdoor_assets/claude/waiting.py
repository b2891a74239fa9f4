"""How long to wait: for a reply, between attempts, under a limit, and for a server that is gone."""

from __future__ import annotations

import random
import time

from backdoor_assets.claude.budget import KEPT, Stopped
from backdoor_assets.claude.errors import Wait

ATTEMPTS = 15
"""How often a call is sent before it is given up, when the network or the API fails."""
ODD_ATTEMPTS = 4
"""The same for a call whose replies, of status 200, are no messages."""
SERIES = 10
"""Calls in a row, none accepted between them, that are refused or answered alike before judging
stops: the fault is not one of a single call."""
DEADLINE = 100.0
"""Seconds for one live call or one request about a batch, from sending to the last byte."""
UNREACHABLE = 90.0
"""Seconds after which judging stops when the server has never replied in this run."""
STALLED = 600.0
"""Seconds without any accepted call or request after which judging stops, for errors and limits."""
GRACE = 10.0
"""Seconds that calls in progress get to finish when judging stops or is interrupted."""
PROGRESS = 10.0
"""Seconds between two lines about the progress."""
CROWD = 0.25
"""Share of rejected calls above which fewer are sent at once. The API rejects a few at random;
slowing down for each of them would leave it idle, the more so the longer its replies take."""


def backoff(attempt: int) -> float:
    """Return a random pause in seconds: half a second, doubled per attempt, up to a minute."""
    return min(60.0, 0.5 * 2 ** (min(attempt, 10) - 1)) * random.uniform(0.5, 1.0)


class Pace:
    """Limits how many calls are in progress at once.

    The limit grows by one after each round of successes and shrinks by a quarter when the API
    rejects too many calls (additive increase, multiplicative decrease, as in TCP). No call is sent
    before the time that the API names in retry-after.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(8, most))
        self.in_progress = 0
        self.resume = 0.0
        self._checked = 0.0
        self._accepted = self._rejected = 0
        self._failed = 0

    def free(self) -> bool:
        return self.in_progress < int(self.limit) and time.monotonic() >= self.resume

    def failed(self) -> None:
        """Note a call without any response. After many in a row the network is taken to be down,
        and all calls pause for some seconds."""
        self._failed += 1
        if self._failed > 2 * self.most:
            self.resume = time.monotonic() + 5.0

    def succeeded(self) -> None:
        self._failed = 0
        self._accepted += 1
        self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def crowded(self, wait: Wait) -> None:
        now = time.monotonic()
        self._rejected += 1
        if now - self._checked > 1.0:  # reduce the limit at most once per second
            if self._rejected > CROWD * (self._accepted + self._rejected):
                self.limit = max(1.0, 0.75 * self.limit)
            self._checked, self._accepted, self._rejected = now, 0, 0
        if wait.seconds is not None:
            self.resume = max(self.resume, now + wait.seconds)


class Patience:
    """Decides when a server is given up: it never replied, or has accepted nothing for long."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.reached = False
        self.problem = ""
        self._since = time.monotonic()

    def accepted(self) -> None:
        self.reached, self.problem, self._since = True, "", time.monotonic()

    def failed(self, problem: str, *, responded: bool) -> None:
        """Note a failure, and `check`."""
        self.reached = self.reached or responded
        self.problem = problem
        self.check()

    def check(self) -> None:
        """Raise Stopped when there were only failures for too long."""
        seconds, problem = time.monotonic() - self._since, self.problem
        if not problem:
            return
        if not self.reached and seconds > UNREACHABLE:
            raise Stopped(
                f"no reply from {self.server} in {seconds:.0f} seconds ({problem}). Check the "
                f"network and ANTHROPIC_BASE_URL, then run again. {KEPT}"
            )
        if seconds > STALLED:
            raise Stopped(
                f"{self.server} has accepted nothing for {seconds:.0f} seconds (last: {problem}). "
                f"Run again when it does. {KEPT}"
            )


class Series:
    """Counts faults of the same kind in a row. Raises Stopped when they are no accident."""

    def __init__(self) -> None:
        self._kind, self._count = "", 0

    def broken(self) -> None:
        self._count = 0

    def add(self, kind: str, what: str) -> None:
        self._count = self._count + 1 if kind == self._kind else 1
        self._kind = kind
        if self._count >= SERIES:
            raise Stopped(
                f"{self._count} calls in a row ended alike: {what}. The others would too. {KEPT}"
            )
