"""Live calls: many at once, up to the rate that the API accepts."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from backdoor_assets.claude import waiting
from backdoor_assets.claude.budget import KEPT, Budget, Stopped
from backdoor_assets.claude.errors import CallRefused, Wait, meaning, short
from backdoor_assets.claude.messages import Message, NotAMessage, checked, parsed
from backdoor_assets.claude.prompts import Call, request
from backdoor_assets.claude.waiting import Pace, Patience, Series, backoff

if TYPE_CHECKING:
    from anthropic import APIError, AsyncAnthropic

Take = Callable[[Call, Message], bool]
"""Stores a reply and returns whether to send its call again."""
GiveUp = Callable[[Call, str], None]
"""Takes a call that gets no verdict in this run, and why."""


class Live:
    """Sends calls, as many at once as the API takes, and passes each reply on when it arrives.

    No call is sent that could take the bill above the cap: what each call in progress can cost at
    most is reserved, and stays so when its reply is lost.
    """

    def __init__(
        self,
        client: AsyncAnthropic,
        take: Take,
        give_up: GiveUp,
        budget: Budget,
        most: int,
        log: Callable[[str], None],
    ) -> None:
        self.client, self.take, self.budget, self.log = client, take, budget, log
        self._give_up = give_up
        self._pace, self._patience = Pace(most), Patience(str(client.base_url))
        self._series = Series()
        self._reserved: dict[str, float] = {}
        self._ready: deque[tuple[Call, int]] = deque()
        self._later: list[tuple[float, int, Call, int]] = []
        """Heap of (time, tie breaker, call, attempt)."""
        self._number = itertools.count()
        self._stopped: Exception | None = None
        self._interrupts = 0
        self._settled = 0

    def interrupt(self) -> None:
        """Send nothing more, and give the calls in progress some seconds. Twice: at once."""
        self._interrupts += 1

    async def ask(self, calls: Sequence[Call]) -> None:
        """Send all calls. A call that is refused, or that fails too often, is given up.

        Raises Stopped when the others would fail too, could exceed the cap, or are not to be sent
        after an interrupt. Before that, replies that arrive within GRACE seconds are taken.
        """
        self._ready.extend((call, 1) for call in calls)
        tasks: set[asyncio.Task[None]] = set()
        reported = time.monotonic()
        while (self._ready or self._later or tasks) and not self._ending:
            now = time.monotonic()
            if now - reported >= waiting.PROGRESS:
                reported = now
                self.log(self._progress(len(calls), len(tasks)))
            try:
                self._patience.check()
            except Stopped as stop:
                self._stopped = stop
                break
            while self._later and self._later[0][0] <= now:
                _, _, call, attempt = heapq.heappop(self._later)
                self._ready.append((call, attempt))
            while self._ready and self._pace.free() and not self._ending:
                if not self._reserve(self._ready[0][0], alone=not tasks):
                    break
                call, attempt = self._ready.popleft()
                self._pace.in_progress += 1
                tasks.add(asyncio.create_task(self._one(call, attempt)))
            tasks = await self._some(tasks)
        if tasks:
            self.log(f"waiting up to {waiting.GRACE:.0f} s for {len(tasks)} calls in progress")
            deadline = time.monotonic() + waiting.GRACE
            while tasks and time.monotonic() < deadline and self._interrupts < 2:
                tasks = await self._some(tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._stopped:
            raise self._stopped from None
        if self._interrupts:
            raise Stopped(f"judging was interrupted. {KEPT}")

    @property
    def _ending(self) -> bool:
        return self._stopped is not None or self._interrupts > 0

    def _reserve(self, call: Call, *, alone: bool) -> bool:
        """Reserve what a call can cost. Returns False while only calls in progress are in its way;
        stops when none is."""
        most = self.budget.most(call, batch=False)
        if not self.budget.fits(sum(self._reserved.values()) + most):
            if alone:
                self._stopped = self.budget.exhausted()
            return False
        self._reserved[call.key] = most
        return True

    async def _one(self, call: Call, attempt: int) -> None:
        try:
            await self._send(call, attempt)
        except ValueError as stop:  # Stopped, or a store that cannot be written
            self._stopped = self._stopped or stop
        finally:
            self._reserved.pop(call.key, None)
            self._pace.in_progress -= 1

    async def _send(self, call: Call, attempt: int) -> None:
        import httpx2
        from anthropic import APIError

        try:
            async with asyncio.timeout(waiting.DEADLINE):
                response = await self.client.messages.with_raw_response.create(**request(call))
                body = await response.read()
            message = checked(parsed(body))
        except NotAMessage as odd:
            self._lost(call)
            self._patience.failed(str(odd), responded=True)
            self._series.add(str(odd), f"{self._patience.server} sends {odd}")
            self._again(call, attempt, waiting.ODD_ATTEMPTS, f"{odd} from the API")
        except TimeoutError:
            self._failed(call, attempt, None, f"no reply within {waiting.DEADLINE:.0f} seconds")
        except APIError as error:
            self._refused_or_failed(call, attempt, error)
        except httpx2.HTTPError as error:
            self._failed(call, attempt, None, short(error))
        else:
            self._pace.succeeded()
            self._patience.accepted()
            self._series.broken()
            if self.take(call, message):
                self._ready.append((call, 1))
            else:
                self._settled += 1

    def _refused_or_failed(self, call: Call, attempt: int, error: APIError) -> None:
        try:
            wait = meaning(error, call.model)
        except CallRefused as refusal:
            self._patience.accepted()
            if refusal.kind:
                self._series.add(refusal.kind, str(refusal))
            self._drop(call, str(refusal))
            return
        self._failed(call, attempt, wait, short(error))

    def _failed(self, call: Call, attempt: int, wait: Wait | None, problem: str) -> None:
        """Note a call that failed for a reason that may pass, and send it again later."""
        wait = wait or Wait(None, crowded=False, responded=False, billed=True)
        if wait.billed:
            self._lost(call)
        self._patience.failed(problem, responded=wait.responded)
        if wait.crowded:
            # A rejection by rate limiting is not a failure of the call.
            self._pace.crowded(wait)
            self._put_off(call, attempt, wait.seconds)
            return
        self._pace.failed()
        self._again(call, attempt, waiting.ATTEMPTS, f"no reply from the API ({problem})", wait)

    def _again(
        self, call: Call, attempt: int, most: int, reason: str, wait: Wait | None = None
    ) -> None:
        if attempt >= most:
            self._drop(call, f"{reason}, in {most} attempts")
            return
        self._put_off(call, attempt + 1, wait.seconds if wait else None)

    def _put_off(self, call: Call, attempt: int, seconds: float | None) -> None:
        pause = seconds if seconds is not None else backoff(attempt)
        heapq.heappush(self._later, (time.monotonic() + pause, next(self._number), call, attempt))

    def _drop(self, call: Call, reason: str) -> None:
        self._settled += 1
        self._give_up(call, reason)

    def _lost(self, call: Call) -> None:
        """Count a call whose reply was lost as billed: it may be."""
        self.budget.unread += self._reserved.pop(call.key, 0.0)

    def _progress(self, calls: int, in_progress: int) -> str:
        problem = self._patience.problem
        return (
            f"{self._settled} of {calls} calls done, {in_progress} in progress, "
            f"{len(self._later)} to be sent again"
            + (f"; last trouble: {problem}" if problem else "")
        )

    @staticmethod
    async def _some(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Wait for some task, but not for long: calls become due while others are in progress."""
        if not tasks:
            await asyncio.sleep(0.01)
            return set()
        done, left = await asyncio.wait(tasks, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return left
