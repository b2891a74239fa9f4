"""What an error of the API means: wait and ask again, give this call up, or stop altogether."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from backdoor_assets.claude.budget import Stopped

if TYPE_CHECKING:
    from anthropic import APIError

RETIRED = {"claude-sonnet-4-20250514": "claude-haiku-5-5"}
"""Models that the API no longer serves, and what took their place here."""
_LENGTH = re.compile(
    r"prompt is too long|input is too long|context[ _](length|limit|size|window)|max_model_len",
    re.IGNORECASE,
)
"""What servers say of one call that is too long: the API itself, vLLM, SGLang, llama.cpp."""


class TooLong(ValueError):
    """One call is longer than the model or the server takes; others need not be."""


class Wait(NamedTuple):
    """Ask again after so many seconds (None: as the caller sees fit)."""

    seconds: float | None
    crowded: bool
    """Whether the API says that it is asked too much."""


def meaning(error: APIError, model: str) -> Wait:
    """Raises Stopped for what waiting does not mend: a bad key, a spent budget, a model that is not
    there, a request that is refused as such. Raises TooLong for what concerns this call alone."""
    from anthropic import APIStatusError

    if not isinstance(error, APIStatusError):
        return Wait(None, crowded=False)  # the network: cut, timed out, refused
    status, after = error.status_code, error.response.headers.get("retry-after")
    seconds, path = _seconds(after), error.request.url.path
    if status == 429 and after is None:
        raise Stopped(
            "the API refuses more calls and names no time to wait for (429 without retry-after): "
            "the account's spending limit is reached. Raise it in the console, then run again: "
            "what is judged is kept."
        ) from error
    if status in (429, 529):
        return Wait(seconds, crowded=True)
    if status in (408, 409) or status >= 500:
        return Wait(seconds, crowded=False)
    if status in (401, 403):
        raise Stopped(
            f"the API refuses ANTHROPIC_API_KEY ({status}); set a valid key in the environment or "
            "in .env, then run again: what is judged is kept"
        ) from error
    if status == 404 and "/messages/batches" in path:
        raise Stopped(
            f"the server has no Message Batches, or not this one (404 at {path}): ask it live "
            "(BACKDOOR_JUDGE_TRANSPORT=live). What is judged is kept."
        ) from error
    if status == 404:
        raise Stopped(f"{not_served(model)} What is judged is kept.") from error
    long = status == 413 or (status == 400 and _LENGTH.search(_told(error)))
    if long and path.endswith("/messages"):
        raise TooLong(refused(_told(error))) from error
    raise Stopped(
        f"the API refuses the request as such ({status}, {_told(error)}); every other one would be "
        "refused alike. What is judged is kept."
    ) from error


def refused(told: str) -> str:
    """Why a call that the API does not take has no verdict."""
    return f"the API refused this call ({' '.join(told.split())[:200]})"


def not_served(model: str) -> str:
    if model in RETIRED:
        return f"judge model {model!r} is retired; use {RETIRED[model]!r} instead."
    return f"judge model {model!r} is not served there; mend `model` of the profile's judging."


def _seconds(after: str | None) -> float | None:
    try:
        return float(after) if after is not None else None
    except ValueError:
        return None


def _told(error: APIError) -> str:
    body = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return str(message or type(error).__name__)[:300]
