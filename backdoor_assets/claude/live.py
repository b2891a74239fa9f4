"""Live calls: many at once, as many as the API takes."""

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
"""How often a call is sent when the network or the API fails, before it is given up."""
CROWD = 0.25
"""Share of calls turned away above which fewer are sent. A few are turned away at random: to step
back for each of them would leave the API idle, the more the longer its replies take."""
Take = Callable[[Call, "Message"], bool]
"""Keeps a reply; whether the call is to be asked once more."""


class Pace:
    """How many calls are under way at once: one more after each round of successes, a quarter less
    when the API turns too many away, and none before the time that it names. (Additive increase,
    multiplicative decrease, as in TCP.)"""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(8, most))
        self.under_way = 0
        self.resume = 0.0
        self._looked = 0.0
        self._taken = self._turned_away = 0
        self._failed = 0

    def free(self) -> bool:
        return self.under_way < int(self.limit) and time.monotonic() >= self.resume

    def failed(self) -> None:
        """Neither a reply nor a refusal: when nothing else comes for long, the network is gone, and
        nobody need try for some seconds."""
        self._failed += 1
        if self._failed > 2 * self.most:
            self.resume = time.monotonic() + 5.0

    def succeeded(self) -> None:
        self._failed = 0
        self._taken += 1
        self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def crowded(self, wait: Wait) -> None:
        now = time.monotonic()
        self._turned_away += 1
        if now - self._looked > 1.0:  # one crowd, one step back
            if self._turned_away > CROWD * (self._taken + self._turned_away):
                self.limit = max(1.0, 0.75 * self.limit)
            self._looked, self._taken, self._turned_away = now, 0, 0
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
    """Ask all calls and `take` each reply when it arrives. `allowed` is asked before each call is
    sent, and raises Stopped when the money is spent. A call that fails ATTEMPTS times, or is too
    long, is given up with the reason. Raises Stopped; replies of calls that are under way then are
    still taken.
    """
    from anthropic import APIError

    ready = deque((call, 1) for call in calls)
    later: list[tuple[float, int, Call, int]] = []  # a heap: when, a tie's breaker, call, attempt
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
            rest = wait.seconds if wait.seconds is not None else _backoff(attempt)
            # To be turned away in a crowd is no failure of the call.
            again = attempt if wait.crowded else attempt + 1
            heapq.heappush(later, (time.monotonic() + rest, next(number), call, again))
        else:
            pace.succeeded()
            if take(call, message):
                ready.append((call, 1))
        finally:
            pace.under_way -= 1

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
            pace.under_way += 1
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
    # Wakes up for calls whose time comes while others are under way.
    return await asyncio.wait(tasks, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)


def _backoff(attempt: int) -> float:
    """Half a second, doubled at each attempt up to a minute, and a random part of it."""
    return min(60.0, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
