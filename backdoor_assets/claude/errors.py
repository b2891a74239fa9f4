"""Decide what an error of the API means: retry later, give up this call, or stop judging."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from backdoor_assets.claude.budget import KEPT, Stopped

if TYPE_CHECKING:
    from anthropic import APIError

RETIRED = {"claude-sonnet-4-20250514": "claude-haiku-5-5"}
"""Models that the API no longer serves, and their replacements here."""
_LENGTH = re.compile(
    r"prompt is too long|input is too long|context[ _](length|limit|size|window)|max_model_len",
    re.IGNORECASE,
)
"""Errors about a single call that is too long, from the API, vLLM, SGLang and llama.cpp."""


class TooLong(ValueError):
    """A call exceeds the context length of the model or server. Other calls may still fit."""


class Wait(NamedTuple):
    """Retry the call after a pause."""

    seconds: float | None
    """Length of the pause; None lets the caller choose."""
    crowded: bool
    """Whether the API is overloaded or limits the rate of calls."""


def meaning(error: APIError, model: str) -> Wait:
    """Return how long to wait before a retry, or raise.

    Raises Stopped for an error that waiting does not fix: a bad key, a spent budget, a missing
    model, an invalid request. Raises TooLong for an error of this call alone.
    """
    from anthropic import APIStatusError

    if not isinstance(error, APIStatusError):
        return Wait(None, crowded=False)  # the network: interrupted, timed out, refused
    status, after = error.status_code, error.response.headers.get("retry-after")
    seconds, path = _seconds(after), error.request.url.path
    if status == 429 and after is None:
        raise Stopped(
            "the API refuses more calls and gives no time to wait (429 without retry-after): "
            "the account's spending limit is reached. Raise it in the console, then run again. "
            + KEPT
        ) from error
    if status in (429, 529):
        return Wait(seconds, crowded=True)
    if status in (408, 409) or status >= 500:
        return Wait(seconds, crowded=False)
    if status in (401, 403):
        raise Stopped(
            f"the API refuses ANTHROPIC_API_KEY ({status}). Set a valid key in the environment or "
            f"in .env, then run again. {KEPT}"
        ) from error
    if status == 404 and "/messages/batches" in path:
        raise Stopped(
            f"the server has no Message Batches, or not this batch (404 at {path}). Use live calls "
            f"(BACKDOOR_JUDGE_TRANSPORT=live). {KEPT}"
        ) from error
    if status == 404:
        raise Stopped(f"{not_served(model)} {KEPT}") from error
    long = status == 413 or (status == 400 and _LENGTH.search(_error_message(error)))
    if long and path.endswith("/messages"):
        raise TooLong(refused(_error_message(error))) from error
    raise Stopped(
        f"the API refuses the request ({status}, {_error_message(error)}), and would refuse every "
        f"other one too. {KEPT}"
    ) from error


def refused(message: str) -> str:
    """Return the reason for which a call that the API refuses has no verdict."""
    return f"the API refused this call ({' '.join(message.split())[:200]})"


def not_served(model: str) -> str:
    if model in RETIRED:
        return f"judge model {model!r} is retired; use {RETIRED[model]!r} instead."
    return (
        f"judge model {model!r} is not served by this API; fix the model in the profile's judging."
    )


def _seconds(after: str | None) -> float | None:
    try:
        return float(after) if after is not None else None
    except ValueError:
        return None


def _error_message(error: APIError) -> str:
    body = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return str(message or type(error).__name__)[:300]
