"""Judge through Message Batches: half the price of live calls, for runs that can wait.

A batch is recorded before it is sent, and its id as soon as the API returns it. After a crash, its
results are fetched instead of being paid for again. If the crash lost the id, the batch is looked
up among the API's batches.
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

MAX_REQUESTS, MAX_BYTES = 100_000, 200 * 2**20
"""Limits of one batch. The API accepts 100,000 requests and 256 MB, envelope included."""
MAX_OPEN = 3
"""Batches in progress at once: the API limits how many requests may wait in them."""
ROUNDS = 3
"""How often a call is sent when the API fails to answer it or lets it expire."""
_CLOCK_SKEW = 300.0
"""Seconds by which this machine's clock and the API's clock may differ."""


class BatchGone(RuntimeError):
    """The API does not know a batch, or no longer keeps its results."""


class Batches:
    """Sends calls in batches and collects their replies.

    `take(key, rubrics, model, message)` stores a reply and returns whether to send its call again.
    """

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
        """Send the calls and wait for their replies.

        Before a batch is sent, `allowed` is called with its calls and those in progress; it raises
        Stopped when they would cost too much. A call without a reply after ROUNDS rounds is passed
        to `give_up` with the reason.
        """
        pending = {call.key: call for call in calls}
        reasons: dict[str, str] = {}
        for _ in range(ROUNDS):
            if not pending:
                return
            reasons = {}
            in_progress: list[tuple[Batch, list[Call]]] = []
            for chunk in chunks(list(pending.values())):
                if len(in_progress) == MAX_OPEN:
                    reasons |= self._fetch(in_progress.pop(0)[0])
                allowed([call for _, sent in in_progress for call in sent] + chunk)
                in_progress.append((self._send(chunk), chunk))
            for batch, _ in in_progress:
                reasons |= self._fetch(batch)
            for key in reasons.keys() & self._refused:
                give_up(pending.pop(key), reasons[key])
            pending = {key: call for key, call in pending.items() if key in reasons}
        for key, call in pending.items():
            give_up(call, reasons[key])

    def collect(self) -> None:
        """Store the replies to batches of earlier runs: they are already paid for."""
        for batch in self._open_batches():
            self._fetch(batch)

    def _send(self, calls: Sequence[Call]) -> Batch:
        rubrics = {call.key: call.rubrics for call in calls}
        batch = self.store.announce(self.server, self.model, rubrics, time.time())
        requests: Any = [{"custom_id": call.key, "params": request(call)} for call in calls]
        attempts = itertools.count()

        def create() -> str:
            # An earlier attempt may have reached the API although its reply was lost.
            if next(attempts) and (found := self._find_lost(batch)):
                return found
            return self.client.messages.batches.create(requests=requests).id

        batch_id = self._retry(create)
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
                batch_id = self._retry(lambda b=batch: self._find_lost(b))
                if not batch_id:
                    self.store.close_batch(batch.number)
                    continue
                self.store.record_id(batch.number, batch_id)
                batch = replace(batch, id=batch_id)
            found.append(batch)
        return found

    def _find_lost(self, batch: Batch) -> str | None:
        """Find the id of a batch that was sent but whose reply was lost.

        Looks for an unknown batch of the same time and size. The custom ids in its results show
        whether it is the right one.
        """
        from anthropic import NotFoundError

        known = self.store.batch_ids()
        try:
            others = self.client.messages.batches.list(limit=100)
        except NotFoundError:
            return None  # a server without Message Batches cannot have received this one
        for other in others:
            if other.created_at.timestamp() < batch.sent - _CLOCK_SKEW:
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
        """Wait for a batch and store its replies. Returns the calls without one and why."""
        assert batch.id is not None
        # Replies that were stored before a crash must not be counted again.
        stored, seen = self.store.known(batch.rubrics), set[str]()
        missing = dict.fromkeys(
            (key for key in batch.rubrics if key not in stored), "not among the batch's results"
        )
        try:
            self._wait_for(batch.id)
            self._retry(lambda: self._read(batch, missing, seen))
        except BatchGone as error:
            self.log(f"batch {batch.id}: {error}; its calls without a reply will be sent again")
        self.store.close_batch(batch.number)
        return missing

    def _wait_for(self, batch_id: str) -> None:
        logged = 0.0
        while True:
            status = self._retry(lambda: self._status(batch_id))
            if status.processing_status == "ended":
                return
            if time.monotonic() - logged > 60:
                logged = time.monotonic()
                self.log(f"batch {batch_id}: {status.request_counts.processing} calls in progress")
            time.sleep(self.poll_seconds)

    def _status(self, batch_id: str) -> MessageBatch:
        from anthropic import NotFoundError

        try:
            return self.client.messages.batches.retrieve(batch_id)
        except NotFoundError as error:
            raise BatchGone(
                "the API does not know it (it was deleted, or belongs to another workspace)"
            ) from error

    def _read(self, batch: Batch, missing: dict[str, str], seen: set[str]) -> None:
        """Store the replies, also those that this run does not need: they are paid for.

        Removes from `missing` every call with a verdict, and sets the reason of the others. Skips
        results in `seen`, so that reading again after an interruption counts none twice.
        """
        from anthropic import AnthropicError, APIError

        assert batch.id is not None
        try:
            results = self.client.messages.batches.results(batch.id)
        except APIError:
            raise
        except AnthropicError as error:
            raise BatchGone("the API no longer keeps its results") from error
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
                missing[entry.custom_id] = f"the API failed ({error.type})"
                if error.type in ("invalid_request_error", "request_too_large"):
                    # The API accepted another call before, so it refuses this one's content.
                    missing[entry.custom_id] = refused(error.message)
                    self._refused.add(entry.custom_id)
            else:
                missing[entry.custom_id] = f"the call was {result.type} in its batch"

    def _retry(self, action: Callable[[], Any]) -> Any:
        """Call `action`, again after a pause when the network or the API fails.

        Raises Stopped, or the last error after ATTEMPTS attempts.
        """
        import httpx2  # used by the SDK; an interrupted download of results raises its errors
        from anthropic import APIError

        for attempt in range(1, ATTEMPTS + 1):
            try:
                return action()
            except (APIError, httpx2.HTTPError, json.JSONDecodeError) as error:
                seconds = None
                if isinstance(error, APIError):
                    seconds = meaning(error, self.model).seconds
                if attempt == ATTEMPTS:
                    raise
                time.sleep(
                    seconds if seconds is not None else min(60.0, self.poll_seconds * attempt)
                )
        raise AssertionError("unreachable")


def chunks(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Split the calls into batches within the API's limits."""
    chunk: list[Call] = []
    size = 0
    for call in calls:
        call_size = len(json.dumps(request(call)).encode()) + 200
        if chunk and (len(chunk) == MAX_REQUESTS or size + call_size > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(call)
        size += call_size
    if chunk:
        yield chunk
