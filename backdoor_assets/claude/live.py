"""Live calls: many at once, up to the rate that the API accepts."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from backdoor_assets.claude.errors import TooLong, Wait, meaning
from backdoor_assets.claude.prompts import Call, request

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic.types import Message

ATTEMPTS = 15
"""How often a call is sent before it is given up, when the network or the API fails."""
CROWD = 0.25
"""Share of rejected calls above which fewer are sent at once. The API rejects a few at random;
slowing down for each of them would leave it idle, the more so the longer its replies take."""
Take = Callable[[Call, "Message"], bool]
"""Stores a reply and returns whether to send its call again."""


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


async def ask(
    client: AsyncAnthropic,
    calls: Sequence[Call],
    take: Take,
    give_up: Callable[[Call, str], None],
    allowed: Callable[[Call], None],
    most: int,
) -> None:
    """Send all calls, and `take` each reply when it arrives.

    `allowed` is called before each call is sent, and raises Stopped when the budget is spent. A
    call that is too long, or fails ATTEMPTS times, is passed to `give_up` with the reason. Raises
    Stopped only after the replies to all calls in progress have been taken.
    """
    from anthropic import APIError

    ready = deque((call, 1) for call in calls)
    later: list[tuple[float, int, Call, int]] = []  # heap of (time, tie breaker, call, attempt)
    number = itertools.count()
    pace = Pace(most)
    tasks: set[asyncio.Task[None]] = set()
    stopped: list[BaseException] = []

    async def one(call: Call, attempt: int) -> None:
        try:
            message = await client.messages.create(**request(call))
        except APIError as error:
            try:
                wait = meaning(error, call.model)
            except TooLong as long:
                give_up(call, str(long))
                return
            except ValueError as stop:
                stopped.append(stop)
                return
            if wait.crowded:
                pace.crowded(wait)
            else:
                pace.failed()
                if attempt >= ATTEMPTS:
                    give_up(call, f"no reply from the API in {ATTEMPTS} attempts ({_short(error)})")
                    return
            pause = wait.seconds if wait.seconds is not None else _backoff(attempt)
            # A rejection by rate limiting is not a failure of the call.
            again = attempt if wait.crowded else attempt + 1
            heapq.heappush(later, (time.monotonic() + pause, next(number), call, again))
        else:
            pace.succeeded()
            if take(call, message):
                ready.append((call, 1))
        finally:
            pace.in_progress -= 1

    while (ready or later or tasks) and not stopped:
        while later and later[0][0] <= time.monotonic():
            _, _, call, attempt = heapq.heappop(later)
            ready.append((call, attempt))
        while ready and pace.free() and not stopped:
            call, attempt = ready.popleft()
            try:
                allowed(call)
            except ValueError as stop:
                stopped.append(stop)
                break
            pace.in_progress += 1
            tasks.add(asyncio.create_task(one(call, attempt)))
        done, tasks = await _some(tasks)
        for task in done:
            task.result()
    if tasks:
        await asyncio.gather(*tasks)
    if stopped:
        raise stopped[0]


async def _some(tasks: set[asyncio.Task[None]]) -> tuple[set[asyncio.Task[None]], ...]:
    if not tasks:
        await asyncio.sleep(0.01)
        return set(), set()
    # Wake up for calls that become due while others are in progress.
    return await asyncio.wait(tasks, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)


def _backoff(attempt: int) -> float:
    """Return a random pause in seconds: half a second, doubled per attempt, up to a minute."""
    return min(60.0, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
