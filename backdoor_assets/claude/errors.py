"""Decide what an error of the API means: retry later, give up this call, or stop judging."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from backdoor_assets.claude.budget import KEPT, Stopped
from backdoor_assets.credentials import told, without_secrets

if TYPE_CHECKING:
    from anthropic import APIError

RETIRED = {"claude-sonnet-4-20250514": "claude-haiku-5-5"}
"""Models that the API no longer serves, and their replacements here."""
LONGEST_WAIT = 120.0
"""Seconds of the longest retry-after that is obeyed; a longer one is cut to this."""
_LENGTH = re.compile(
    r"prompt is too long|input is too long|context[ _](length|limit|size|window)|max_model_len",
    re.IGNORECASE,
)
"""Errors about a single call that is too long, from the API, vLLM, SGLang and llama.cpp."""
_MONEY = re.compile(r"usage limit|spend(ing)? limit|credit balance|billing", re.IGNORECASE)


class CallRefused(ValueError):
    """The API refuses the content of one call. Other calls may be accepted."""

    def __init__(self, reason: str, kind: str | None) -> None:
        super().__init__(reason)
        self.kind = kind
        """What a series of refusals has in common; None where it says nothing of other calls."""


class Wait(NamedTuple):
    """Retry the call after a pause."""

    seconds: float | None
    """Length of the pause; None lets the caller choose."""
    crowded: bool
    """Whether the API is overloaded or limits the rate of calls."""
    responded: bool = True
    """Whether there was a response at all."""
    billed: bool = False
    """Whether the call may have been billed although its reply is lost."""


def meaning(error: APIError, model: str) -> Wait:
    """Return how long to wait before a retry, or raise.

    Raises Stopped for an error that waiting does not fix: a bad key, a spent budget, a missing
    model. Raises CallRefused for a request that is refused, which others may not be. No message
    holds a secret; raise them `from None`.
    """
    from anthropic import APIStatusError

    if not isinstance(error, APIStatusError):
        return Wait(None, crowded=False, responded=False, billed=_was_sent(error))
    status, after = error.status_code, error.response.headers.get("retry-after")
    seconds, path = _seconds(after), error.request.url.path
    said = _error_message(error)
    if status == 429 and after is None:
        raise Stopped(
            "the API refuses more calls and gives no time to wait (429 without retry-after): "
            "the account's spending limit is reached. Raise it in the console, then run again. "
            + KEPT
        )
    if status in (429, 529):
        return Wait(seconds, crowded=True)
    if status in (408, 409) or status >= 500:
        return Wait(seconds, crowded=False)
    if status in (401, 403):
        raise Stopped(
            f"the API refuses ANTHROPIC_API_KEY ({status}). Set a valid key in the environment or "
            f"in .env, then run again. {KEPT}"
        )
    if status == 404 and "/messages/batches" in path:
        raise Stopped(
            f"the server has no Message Batches (404 at {path}). Use live calls "
            f"(BACKDOOR_JUDGE_TRANSPORT=live). {KEPT}"
        )
    if status == 404:
        raise Stopped(f"{not_served(model)} {KEPT}")
    if status == 400 and _MONEY.search(said):
        raise Stopped(f"the API refuses more calls ({said}). {KEPT}")
    long = status == 413 or (status == 400 and _LENGTH.search(said))
    raise CallRefused(refused(said), None if long else f"{status} {_error_type(error)}")


def _was_sent(error: APIError) -> bool:
    """Return whether a call without a response may have reached the server."""
    import httpx2

    unsent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
    return not isinstance(error.__cause__, (*unsent, httpx2.UnsupportedProtocol))


def short(error: BaseException) -> str:
    return told(error)[:200]


def refused(message: str) -> str:
    """Return the reason for which a call that the API refuses has no verdict."""
    return f"the API refused this call ({' '.join(without_secrets(message).split())[:200]})"


def not_served(model: str) -> str:
    if model in RETIRED:
        return f"judge model {model!r} is retired; use {RETIRED[model]!r} instead."
    return (
        f"judge model {model!r} is not served by this API; fix the model in the profile's judging."
    )


def _seconds(after: str | None) -> float | None:
    """Read retry-after, in seconds or as a date. None for what is neither, or in the past."""
    if after is None:
        return None
    try:
        seconds = float(after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(seconds, LONGEST_WAIT) if seconds >= 0 else None  # NaN is not


def _inner(error: APIError) -> dict[str, object]:
    body = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}


def _error_type(error: APIError) -> str:
    return str(_inner(error).get("type") or type(error).__name__)[:60]


def _error_message(error: APIError) -> str:
    return without_secrets(str(_inner(error).get("message") or type(error).__name__))[:300]
