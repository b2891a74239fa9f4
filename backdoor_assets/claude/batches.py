"""Message Batches: half the price, for who can wait.

A batch is noted before it is sent and its id as soon as it is answered. After a crash its results
are fetched, not asked for again; one whose answer was lost is looked for among the API's batches.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backdoor_assets.claude.errors import meaning, refused
from backdoor_assets.claude.live import ATTEMPTS
from backdoor_assets.claude.prompts import Call, request
from backdoor_assets.claude.store import Batch, Store
from backdoor_assets.records import Rubric

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types import Message
    from anthropic.types.messages import MessageBatch

MOST_REQUESTS, MOST_BYTES = 100_000, 200 * 2**20
"""Of a batch: the API takes 100,000 and 256 MB; some room is left for its envelope."""
MOST_OPEN = 3
"""Batches under way at once: the API limits how many requests may wait in them."""
ROUNDS = 3
"""How often a call is sent in a batch when the API errs or lets it expire."""
_CLOCKS = 300.0
"""Seconds by which this machine's clock and the API's may differ."""


class Gone(RuntimeError):
    """A batch that the API does not know, or whose results it no longer keeps."""


class Batches:
    """Asks calls in batches; `take` keeps a reply (key, rubrics, model, message) and says whether
    to ask once more."""

    def __init__(
        self,
        client: Anthropic,
        store: Store,
        model: str,
        take: Callable[[str, tuple[Rubric, ...], str, Message], bool],
        log: Callable[[str], None],
        poll_seconds: float = 60.0,
    ) -> None:
        self.client, self.store, self.model = client, store, model
        self.server = str(client.base_url)
        self.take, self.log, self.poll_seconds = take, log, poll_seconds
        self._refused: set[str] = set()

    def ask(
        self,
        calls: Sequence[Call],
        give_up: Callable[[Call, str], None],
        allowed: Callable[[Sequence[Call]], None],
    ) -> None:
        """Send the calls and wait for them. `allowed` is asked before a batch is sent, with its
        calls and those under way, and raises Stopped when they would cost too much."""
        left = {call.key: call for call in calls}
        reasons: dict[str, str] = {}
        for _ in range(ROUNDS):
            if not left:
                return
            reasons = {}
            under_way: list[tuple[Batch, list[Call]]] = []
            for chunk in chunks(list(left.values())):
                if len(under_way) == MOST_OPEN:
                    reasons |= self._fetch(under_way.pop(0)[0])
                allowed([call for _, sent in under_way for call in sent] + chunk)
                under_way.append((self._send(chunk), chunk))
            for batch, _ in under_way:
                reasons |= self._fetch(batch)
            for key in reasons.keys() & self._refused:
                give_up(left.pop(key), reasons[key])
            left = {key: call for key, call in left.items() if key in reasons}
        for key, call in left.items():
            give_up(call, reasons[key])

    def collect(self) -> None:
        """Keep the replies of the batches that an earlier run has left: they are paid for."""
        for batch in self._under_way():
            self._fetch(batch)

    def _send(self, calls: Sequence[Call]) -> Batch:
        rubrics = {call.key: call.rubrics for call in calls}
        batch = self.store.announce(self.server, self.model, rubrics, time.time())
        requests: Any = [{"custom_id": call.key, "params": request(call)} for call in calls]
        attempts = itertools.count()

        def create() -> str:
            # One whose answer was lost may have been heard: it is looked for before another.
            if next(attempts) and (found := self._lost(batch)):
                return found
            return self.client.messages.batches.create(requests=requests).id

        batch_id = self._patiently(create)
        self.store.answered(batch.number, batch_id)
        self.log(f"batch {batch_id}: {len(calls)} calls sent")
        return replace(batch, id=batch_id)

    def _under_way(self) -> list[Batch]:
        """Open batches with their ids; one that was never heard of is closed."""
        found = []
        for batch in self.store.open_batches():
            if batch.server != self.server:
                continue  # it waits until its server is asked again
            if batch.id is None:
                lost = self._patiently(lambda b=batch: self._lost(b))
                if not lost:
                    self.store.done(batch.number)
                    continue
                self.store.answered(batch.number, lost)
                batch = replace(batch, id=lost)
            found.append(batch)
        return found

    def _lost(self, batch: Batch) -> str | None:
        """The id of a batch that was sent and whose answer never came, if the API has one of that
        time and size that nobody knows; its results tell in the end whose it is."""
        from anthropic import NotFoundError

        known = self.store.batch_ids()
        try:
            others = self.client.messages.batches.list(limit=100)
        except NotFoundError:
            return None  # a server without Message Batches has not taken this one
        for other in others:
            if other.created_at.timestamp() < batch.sent - _CLOCKS:
                return None
            counts = other.request_counts
            size = sum(
                (
                    counts.processing,
                    counts.succeeded,
                    counts.errored,
                    counts.canceled,
                    counts.expired,
                )
            )
            if other.id not in known and size == len(batch.rubrics):
                return other.id
        return None

    def _fetch(self, batch: Batch) -> dict[str, str]:
        """Wait for a batch and keep its replies; its calls without one, with the reason."""
        assert batch.id is not None
        # What was kept before a kill is not taken, and counted, again.
        kept, seen = self.store.known(batch.rubrics), set[str]()
        without = dict.fromkeys(
            (key for key in batch.rubrics if key not in kept), "the batch's results lack it"
        )
        try:
            self._wait_for(batch.id)
            self._patiently(lambda: self._read(batch, without, seen))
        except Gone as error:
            self.log(f"batch {batch.id}: {error}; what it had not told is asked again")
        self.store.done(batch.number)
        return without

    def _wait_for(self, batch_id: str) -> None:
        said = 0.0
        while True:
            status = self._patiently(lambda: self._look(batch_id))
            if status.processing_status == "ended":
                return
            if time.monotonic() - said > 60:
                said = time.monotonic()
                self.log(f"batch {batch_id}: {status.request_counts.processing} calls under way")
            time.sleep(self.poll_seconds)

    def _look(self, batch_id: str) -> MessageBatch:
        from anthropic import NotFoundError

        try:
            return self.client.messages.batches.retrieve(batch_id)
        except NotFoundError as error:
            raise Gone("the API does not know it (deleted, or of another workspace)") from error

    def _read(self, batch: Batch, missing: dict[str, str], seen: set[str]) -> None:
        """Take the replies, those that this run has no need of too: they are paid for. What is left
        in `missing` has none. Reading once more takes none that was `seen`."""
        from anthropic import AnthropicError, APIError

        assert batch.id is not None
        try:
            results = self.client.messages.batches.results(batch.id)
        except APIError:
            raise
        except AnthropicError as error:
            raise Gone("the API no longer keeps its results") from error
        for entry in results:
            if entry.custom_id not in missing or entry.custom_id in seen:
                continue
            seen.add(entry.custom_id)
            result = entry.result
            if result.type == "succeeded":
                key, rubrics = entry.custom_id, batch.rubrics[entry.custom_id]
                if self.take(key, rubrics, batch.model, result.message):
                    missing[key] = "the judge gave no verdict"
                else:
                    del missing[key]
            elif result.type == "errored":
                error = result.error.error
                missing[entry.custom_id] = f"the API erred ({error.type})"
                if error.type in ("invalid_request_error", "request_too_large"):
                    # Another was taken before the batch: this call is refused for what it holds.
                    missing[entry.custom_id] = refused(error.message)
                    self._refused.add(entry.custom_id)
            else:
                missing[entry.custom_id] = f"the batch's call {result.type}"

    def _patiently(self, what: Callable[[], Any]) -> Any:
        """Do it; when the network or the API fails, wait and do it again. Raises Stopped, or in the
        end the error itself."""
        import httpx2  # the SDK's own; results that break off raise its errors
        from anthropic import APIError

        for attempt in range(1, ATTEMPTS + 1):
            try:
                return what()
            except (APIError, httpx2.HTTPError, json.JSONDecodeError) as error:
                rest = None
                if isinstance(error, APIError):
                    rest = meaning(error, self.model).seconds
                if attempt == ATTEMPTS:
                    raise
                time.sleep(rest if rest is not None else min(60.0, self.poll_seconds * attempt))
        raise AssertionError("unreachable")


def chunks(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Calls as batches within the API's limits."""
    chunk: list[Call] = []
    size = 0
    for call in calls:
        own = len(json.dumps(request(call)).encode()) + 200
        if chunk and (len(chunk) == MOST_REQUESTS or size + own > MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(call)
        size += own
    if chunk:
        yield chunk
