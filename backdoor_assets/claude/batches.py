"""Judge through Message Batches: half the price of live calls, for runs that can wait.

A batch is recorded before it is sent, and its id as soon as the API returns it. After a crash, its
results are fetched instead of being paid for again. If the crash lost the id, the batch is looked
up among the API's batches. A call whose result cannot be read stays in its batch: it may have been
billed, so only a person sends it again (`backdoor-assets give-up`).
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from backdoor_assets.claude import waiting
from backdoor_assets.claude.batch_api import BatchApi, NoResults, Status, UnknownBatch
from backdoor_assets.claude.batch_results import Fetched, TakeResult
from backdoor_assets.claude.budget import KEPT, Budget, Stopped
from backdoor_assets.claude.messages import NotAMessage
from backdoor_assets.claude.prompts import Call, request
from backdoor_assets.claude.store import Batch, Store

if TYPE_CHECKING:
    from anthropic import Anthropic

T = TypeVar("T")

MAX_REQUESTS, MAX_BYTES = 100_000, 200 * 2**20
"""Limits of one batch. The API accepts 100,000 requests and 256 MB, envelope included."""
MAX_OPEN = 3
"""Batches in progress at once: the API limits how many requests may wait in them."""
ROUNDS = 3
"""How often a call is sent when the API fails to answer it or lets it expire."""
READS = 4
"""How often the results of a batch are asked for before what cannot be read is left."""
GONE = 300.0
"""Seconds for which the API must say that it does not know a batch before the batch counts as
gone; its list must not have it either."""
LONGEST = 26 * 3600.0
"""Seconds after which a batch that has not ended is left. The API ends each within a day."""
_DAY = 24 * 3600.0
"""Seconds by which this machine's clock and the API's clock may differ."""


class Batches:
    """Sends calls in batches and collects their replies."""

    def __init__(
        self,
        client: Anthropic,
        store: Store,
        model: str,
        take: TakeResult,
        budget: Budget,
        log: Callable[[str], None],
        poll_seconds: float = 60.0,
    ) -> None:
        self.api, self.store, self.model, self.budget = BatchApi(client), store, model, budget
        self.server = str(client.base_url)
        self.take, self.log, self.poll_seconds = take, log, poll_seconds

    def ask(self, calls: Sequence[Call], give_up: Callable[[Call, str], None]) -> None:
        """Send the calls and wait for their replies.

        A batch is sent only if it stays within the cap whatever its replies are; more follow when
        it has been read. A call without a verdict after ROUNDS rounds, or whose result cannot be
        read, is passed to `give_up` with the reason. Raises Stopped when the cap is reached.
        """
        pending = {call.key: call for call in calls}
        reasons: dict[str, str] = {}
        for _ in range(ROUNDS):
            reasons = {}
            waiting_calls = list(pending.values())
            in_progress: list[tuple[Batch, float]] = []
            while waiting_calls or in_progress:
                room = self._part(waiting_calls, sum(most for _, most in in_progress))
                if room and len(in_progress) < MAX_OPEN:
                    chunk, waiting_calls = waiting_calls[:room], waiting_calls[room:]
                    most = sum(self.budget.most(call, batch=True) for call in chunk)
                    in_progress.append((self._send(chunk, most), most))
                    continue
                if not in_progress:
                    raise self.budget.exhausted()
                found = self._fetch(in_progress.pop(0)[0])
                for key, reason in (found.refused | found.unread).items():
                    if key in pending:
                        give_up(pending.pop(key), reason)
                reasons |= found.again
            pending = {key: call for key, call in pending.items() if key in reasons}
        for key, call in pending.items():
            give_up(call, reasons[key])

    def collect(self) -> dict[str, str]:
        """Store the replies to batches of earlier runs: they are already paid for. Returns the
        calls whose result cannot be read, and why: their batches stay open."""
        unread: dict[str, str] = {}
        for batch in self._open_batches():
            unread |= self._fetch(batch).unread
        return unread

    def _part(self, calls: Sequence[Call], reserved: float) -> int:
        """Return how many of the calls make a batch within the limits of the API and the cap."""
        size = 0
        for number, call in enumerate(calls):
            size += len(json.dumps(request(call)).encode()) + 200
            reserved += self.budget.most(call, batch=True)
            full = number and (number == MAX_REQUESTS or size > MAX_BYTES)
            if full or not self.budget.fits(reserved):
                return number
        return len(calls)

    def _send(self, calls: Sequence[Call], most: float) -> Batch:
        rubrics = {call.key: call.rubrics for call in calls}
        batch = self.store.announce(self.server, self.model, rubrics, time.time(), most)
        requests: Any = [{"custom_id": call.key, "params": request(call)} for call in calls]
        attempts = itertools.count()

        def create() -> str:
            # An earlier attempt may have reached the API although its reply was lost.
            if next(attempts) and (found := self._find_lost(batch)):
                return found
            return self.api.create(requests)

        try:
            batch_id = self._retry(create)
        except NoResults as refusal:
            raise Stopped(f"the API refuses a batch: {refusal}. {KEPT}") from None
        self.store.record_id(batch.number, batch_id)
        self.log(f"batch {batch_id}: {len(calls)} calls sent")
        return replace(batch, id=batch_id)

    def _open_batches(self) -> list[Batch]:
        """Return the open batches with their ids. Closes a batch that never reached the API."""
        found = []
        for batch in self.store.open_batches():
            if batch.server != self.server:
                continue  # fetched when a run uses its server again
            if batch.id is None:
                try:
                    batch_id = self._retry(lambda b=batch: self._find_lost(b))
                except NoResults as refusal:
                    raise Stopped(f"the API refuses its list of batches: {refusal}") from None
                if not batch_id:
                    self.store.close_batch(batch.number)
                    continue
                self.store.record_id(batch.number, batch_id)
                batch = replace(batch, id=batch_id)
            found.append(batch)
        return found

    def _find_lost(self, batch: Batch) -> str | None:
        """Find the id of a batch that was sent but whose reply was lost.

        Its results hold the ids of its calls, which no other batch has. Only batches of the same
        size are looked into, once they have ended; the clocks may differ by a day.
        """
        known = self.store.batch_ids()
        for other in list(self.api.listed(batch.sent - _DAY)):
            if other.id in known or other.size != len(batch.rubrics):
                continue
            self.log(f"batch {other.id}: looking whether it is the one whose reply was lost")
            try:
                self._wait_for(other.id)
                lines: list[Any] = self._retry(
                    lambda o=other: list(itertools.islice(self.api.lines(o.id), 3))
                )
            except (UnknownBatch, NoResults) as error:
                raise Stopped(
                    f"batch {other.id}: {error}, so it cannot be told whether this is the batch "
                    f"whose reply was lost. Run again later. {KEPT}"
                ) from None
            if any(line and line["custom_id"] in batch.rubrics for line in lines):
                return other.id
        return None

    def _fetch(self, batch: Batch) -> Fetched:
        """Wait for a batch and store its replies. It stays open while results are unread."""
        assert batch.id is not None
        # Replies that were stored before a crash must not be counted again.
        stored, found = self.store.known(batch.rubrics), Fetched()
        left = {key for key in batch.rubrics if key not in stored}
        why = ""
        try:
            self._wait_for(batch.id)
            for attempt in range(1, READS + 1):
                why = self._retry(lambda: self._read(batch, left, found))
                if not left:
                    break
                if attempt < READS:
                    time.sleep(min(60.0, self.poll_seconds * attempt))
        except UnknownBatch:
            self.log(f"batch {batch.id}: the API no longer knows it; its calls are sent again")
            found.again |= dict.fromkeys(left, "its batch is gone")
            left.clear()
            self.budget.unread += batch.most or 0.0
        except NoResults as error:
            why = str(error)
        if not left:
            self.store.close_batch(batch.number)
            if len(found.refused) == len(batch.rubrics) >= waiting.SERIES:
                reason = next(iter(found.refused.values()))
                raise Stopped(
                    f"all {len(batch.rubrics)} calls of a batch ended alike: {reason}. {KEPT}"
                )
            return found
        most = (batch.most or 0.0) * len(left) / len(batch.rubrics)
        self.budget.unread += most
        reason = (
            f"its result in batch {batch.id} cannot be read ({why}); to ask again, for at most "
            f"${most:.2f} for the {len(left)} calls: backdoor-assets give-up {batch.id}"
        )
        self.log(f"batch {batch.id}: {len(left)} results cannot be read ({why})")
        found.unread = dict.fromkeys(left, reason)
        return found

    def _wait_for(self, batch_id: str) -> None:
        """Wait until a batch has ended. Raises UnknownBatch for one that is gone, NoResults for one
        that does not end or ended without results."""
        started, reported = time.monotonic(), 0.0
        unknown_since, without_results = None, 0
        while True:
            now = time.monotonic()
            try:
                status: Status = self._retry(lambda: self.api.status(batch_id))
            except UnknownBatch:
                unknown_since = unknown_since or now
                if now - unknown_since >= GONE:
                    if any(one.id == batch_id for one in self._retry(self._all_listed)):
                        raise NoResults("the API lists the batch but does not show it") from None
                    raise
                what = "the API says that it does not know this batch; asking again"
            else:
                unknown_since = None
                if status.ended and status.has_results:
                    return
                what = f"{status.processing} calls in progress"
                if status.ended:
                    without_results += 1
                    what = "ended without an address of its results; asking again"
                    if without_results >= READS:
                        raise NoResults("the API gives no address of its results")
            if now - started > LONGEST:
                raise NoResults(f"it has not ended in {LONGEST / 3600:.0f} hours")
            if now - reported >= max(waiting.PROGRESS, self.poll_seconds):
                reported = now
                self.log(f"batch {batch_id}: {what}")
            time.sleep(self.poll_seconds)

    def _all_listed(self) -> list[Any]:
        return list(self.api.listed(0.0))

    def _read(self, batch: Batch, left: set[str], found: Fetched) -> str:
        """Store the replies, also those that this run does not need: they are paid for.

        Removes from `left` each call whose result was read. Returns why others are not.
        """
        assert batch.id is not None
        odd, garbage = "", 0
        try:
            for entry in self.api.lines(batch.id):
                if entry is None:
                    garbage += 1
                elif (key := entry["custom_id"]) in left:
                    try:
                        found.settle(batch, key, entry["result"], self.take)
                    except NotAMessage as error:
                        odd = str(error)
                    else:
                        left.discard(key)
        except UnknownBatch:
            return "404 at its results"
        except NoResults as error:
            return str(error)
        if odd:
            return odd
        return f"{garbage} lines are no results" if garbage else "not among the batch's results"

    def _retry(self, action: Callable[[], T]) -> T:
        return self.api.persist(action, self.model, self.poll_seconds, self.log)
