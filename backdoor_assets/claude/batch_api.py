"""The requests of Message Batches, with replies that are checked before they are used."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from backdoor_assets.claude import waiting
from backdoor_assets.claude.budget import KEPT, Stopped
from backdoor_assets.claude.errors import CallRefused, meaning, short
from backdoor_assets.claude.messages import NotAMessage, parsed

if TYPE_CHECKING:
    from anthropic import Anthropic

T = TypeVar("T")
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


class UnknownBatch(LookupError):
    """The API answers 404 for a batch or its results."""


class NoResults(LookupError):
    """A batch has no results to be read, or the API refuses a request about it. Says why."""


class Listed(NamedTuple):
    """A batch as the API lists it."""

    id: str
    created: float
    """Seconds since 1970, by the API's clock."""
    size: int
    """Requests in it."""


class Status(NamedTuple):
    ended: bool
    has_results: bool
    processing: int


DOWNLOAD = 3600.0
"""Seconds for the results of a batch, from the first byte to the last."""


class BatchApi:
    """Message Batches of one server. Any method raises the SDK's errors, or NotAMessage for a
    reply of status 200 that is not what the API documents."""

    def __init__(self, client: Anthropic) -> None:
        self.client = client
        self._requests = client.messages.batches.with_streaming_response

    def create(self, requests: Any) -> str:
        """Send a batch and return its id."""
        found = _object(_body(self._requests.create(requests=requests)))
        return _text(found, "id")

    def status(self, batch_id: str) -> Status:
        """Raises UnknownBatch."""
        from anthropic import NotFoundError

        try:
            body = _body(self._requests.retrieve(batch_id))
        except NotFoundError:
            raise UnknownBatch(batch_id) from None
        found = _object(body)
        counts = found.get("request_counts")
        processing = counts.get("processing") if isinstance(counts, dict) else None
        return Status(
            _text(found, "processing_status") == "ended",
            bool(found.get("results_url")),
            processing if isinstance(processing, int) else 0,
        )

    def listed(self, since: float) -> Iterator[Listed]:
        """Yield the batches that were created later, newest first; none for a server without
        Message Batches. `since` is in seconds since 1970."""
        from anthropic import NotFoundError

        after: Any = {}
        while True:
            try:
                body = _body(self._requests.list(limit=100, **after))
            except NotFoundError:
                return
            page = _object(body)
            entries = page.get("data")
            if not isinstance(entries, list):
                raise NotAMessage("a list of batches without data")
            for entry in entries:
                one = _listed(entry)
                if one and one.created < since:
                    return
                if one:
                    yield one
            if not page.get("has_more") or not entries:
                return
            after = {"after_id": _text(page, "last_id")}

    def lines(self, batch_id: str) -> Iterator[dict[str, Any] | None]:
        """Yield each line of a batch's results; None for one that cannot be read.

        Raises UnknownBatch or NoResults.
        """
        from anthropic import AnthropicError, APIError, NotFoundError

        streamed = self._requests.results(batch_id)
        try:
            response = streamed.__enter__()
        except NotFoundError:
            raise UnknownBatch(batch_id) from None
        except APIError:
            raise
        except (AnthropicError, ValueError, AttributeError, TypeError):
            raise NoResults("the API gives no address of its results") from None
        try:
            rest = b""
            for chunk in _within(DOWNLOAD, response.iter_bytes()):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (_line(line) for line in whole if line.strip())
            if rest.strip():
                yield _line(rest)
        finally:
            streamed.__exit__(None, None, None)

    def persist(
        self, action: Callable[[], T], model: str, poll_seconds: float, log: Callable[[str], None]
    ) -> T:
        """Call `action`, again after a pause when the network or the API fails.

        Raises NoResults for a request that is refused, Stopped when waiting does not help.
        """
        import httpx2  # used by the SDK; an interrupted download of results raises its errors
        from anthropic import APIError

        server = str(self.client.base_url)
        patience, reported = waiting.Patience(server), time.monotonic()
        for attempt in itertools.count(1):
            seconds, responded = None, True
            try:
                return action()
            except NotAMessage as odd:
                problem = str(odd)
                if attempt >= waiting.ATTEMPTS:
                    raise Stopped(f"{server} sends {odd}. {KEPT}") from None
            except APIError as error:
                problem = short(error)
                try:
                    wait = meaning(error, model)
                except CallRefused as refusal:
                    raise NoResults(str(refusal)) from None
                except Stopped as stop:
                    raise stop from None
                seconds, responded = wait.seconds, wait.responded
            except httpx2.HTTPError as error:
                problem = short(error)
            patience.failed(problem, responded=responded)
            if time.monotonic() - reported >= waiting.PROGRESS:
                reported = time.monotonic()
                log(f"{server}: asking again ({problem})")
            pause = waiting.backoff(attempt) if seconds is None else seconds
            time.sleep(min(pause, max(poll_seconds, 0.01) * attempt, waiting.PROGRESS))
        raise AssertionError("unreachable")


def _body(streamed: Any) -> bytes:
    """Read a reply that begins when this is entered. Raises httpx2.ReadTimeout after DEADLINE."""
    with streamed as response:
        return b"".join(_within(waiting.DEADLINE, response.iter_bytes()))


def _within(seconds: float, chunks: Iterator[bytes]) -> Iterator[bytes]:
    import httpx2

    end = time.monotonic() + seconds
    for chunk in chunks:
        if time.monotonic() > end:
            raise httpx2.ReadTimeout(f"no whole reply within {seconds:.0f} seconds")
        yield chunk


def _line(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    readable = (
        isinstance(value, dict)
        and isinstance(value.get("custom_id"), str)
        and isinstance(value.get("result"), dict)
    )
    return value if readable else None


def _object(body: bytes) -> dict[str, Any]:
    value = parsed(body)
    if not isinstance(value, dict) or value.get("type") == "error":
        raise NotAMessage("a reply about batches that is not one")
    return value


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise NotAMessage(f"a reply about batches without {name}")
    return value


def _listed(entry: Any) -> Listed | None:
    """Return a listed batch; None for an entry that is not one."""
    try:
        created = datetime.fromisoformat(entry["created_at"]).timestamp()
        return Listed(entry["id"], created, sum(entry["request_counts"][n] for n in _COUNTS))
    except (KeyError, TypeError, ValueError):
        return None
