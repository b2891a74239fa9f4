"""What the fake Claude server accepts, which faults it can produce, and its verdicts."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

Body = dict[str, Any]

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
REFUSALS = {
    "rate_limited": (429, "This request would exceed your organization's rate limit"),
    "overloaded": (529, "Overloaded"),
    "error": (500, "Internal server error"),
    "usage_limit": (400, "You have reached your specified API usage limits"),
}
CALLS = (*REFUSALS, "timeout", "timeout_billed", "cut_early", "cut")
"""Faults of a call, at most one. Only `timeout_billed` and `cut` are billed, though unanswered."""
ANSWERS = ("malformed", "wrong_option", "out_of_range", "refusal", "max_tokens")
"""Faults of a reply, live or in a batch, at most one. All are billed."""
ALONGSIDE = ("case", "thinking")
"""Another letter case of options; a thinking block before the text. Combine with any of these."""
REQUESTS = ("errored_invalid", "errored_api", "expired", "canceled")
"""Faults of a request in a batch, at most one. None is billed."""
BATCHES = ("create_error", "create_cut", "poll_error", "list_error", "results_error", "results_cut")
"""`_error` is a 500 or a 529. After `create_cut` the batch exists and is billed."""
FAULTS = {*CALLS, *ANSWERS, *ALONGSIDE, *REQUESTS, *BATCHES, "expired_batch"}
"""`expired_batch`: all requests after a random one expire."""

FIELDS = """model max_tokens messages system metadata output_config service_tier stop_sequences
    thinking tools tool_choice cache_control container inference_geo"""
BILLED = ("model", "system", "messages", "output_config")
COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
CUSTOM_ID = re.compile("[a-zA-Z0-9_-]{1,64}")


@dataclass
class Config:
    """What the server accepts, how fast it is, and how probable each fault is (0 to 1)."""

    api_key: str = "sk-ant-test"
    models: Sequence[str] = ("claude-haiku-5-5", "claude-sonnet-5-5")
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    reply: Callable[[Body], str | None] | None = None
    """Returns the text of a reply, or None for the usual one. In-process only."""
    latency: float = 0
    jitter: float = 0
    """Seconds per call: latency, plus a random time of up to jitter."""
    hold: float = 600
    """Seconds after which a timeout ends if the client has not disconnected."""
    retry_after: float = 1
    """The retry-after of `rate_limited`, in seconds."""
    requests_per_second: float | None = None
    burst: int = 10
    """Size of the token bucket. Its retry-after has decimals, so that tests need not wait long."""
    budget: int | None = None
    """Number of billed calls after which all calls get a 429 without retry-after."""
    context: int | None = None
    """Maximum characters per call."""
    batch_polls: int = 0
    batch_seconds: float = 0
    """Polls and seconds after which a batch ends, whichever is later."""
    batch_requests: int = 100_000
    batch_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        if unknown := set(self.faults) - FAULTS:
            raise ValueError(f"no such faults: {', '.join(sorted(unknown))}")


class Refused(Exception):
    """A response that is an error."""

    def __init__(self, status: int, message: str, outcome: str = "", **header: str) -> None:
        super().__init__(message)
        self.status, self.header = status, header
        self.outcome = outcome or KINDS[status]
        error: Body = {"type": KINDS[status], "message": message}
        if outcome == "budget":
            error["details"] = {"error_code": "enforced_spend_limit_reached"}
        self.body = {"type": "error", "error": error}


class Cut(Exception):
    """The connection closes after `sent`, an incomplete response."""

    def __init__(self, outcome: str, sent: bytes = b"") -> None:
        super().__init__(outcome)
        self.outcome, self.sent = outcome, sent


@dataclass
class Batch:
    id: str
    requests: list[Body]
    created: float = field(default_factory=time.time)
    lines: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    polls: int = 0
    canceled: float | None = None
    ended: float | None = None


def digest(body: Body) -> str:
    """Hash model, system, messages and output_config of a call: the key of `billed`."""
    text = json.dumps({name: body.get(name) for name in BILLED}, sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def check(body: object, config: Config) -> None:
    """Raise Refused for a call that the API would reject: at once when live, late in a batch."""
    if not isinstance(body, dict):
        raise Refused(400, "the body is not a JSON object")
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if not isinstance(body.get(name), kind):
            raise Refused(400, f"{name}: Field required")
    if unknown := sorted(
        body.keys() - set(FIELDS.split())
    ):  # temperature, top_p and top_k are among them
        raise Refused(400, f"{unknown[0]}: not accepted by this model")
    if body["model"] not in config.models:
        raise Refused(404, f"model: {body['model']}")
    if body["max_tokens"] < 1:
        raise Refused(400, "max_tokens: must be at least 1")
    for message in body["messages"] or [None]:
        if not isinstance(message, dict) or not text_of(message.get("content")):
            raise Refused(400, "messages: each must have non-empty content")
    if body["messages"][-1].get("role") != "user":
        raise Refused(400, "messages: this model does not support assistant message prefill")
    if body.get("thinking") == {"type": "disabled"} and "sonnet-5-5" in body["model"]:
        raise Refused(400, "thinking: cannot be disabled for this model")
    if schema := schema_of(body):
        _check_schema(schema)
    size = sum(len(text_of(message["content"])) for message in body["messages"])
    if config.context is not None and size > config.context:
        raise Refused(400, f"prompt is too long: {size} tokens > {config.context} maximum")


def _check_schema(schema: Body) -> None:
    if bounds := schema.keys() & {"minimum", "maximum", "minLength", "maxLength", "multipleOf"}:
        raise Refused(400, f"output_config.format.schema: '{min(bounds)}' is not supported")
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise Refused(400, "output_config.format.schema: 'additionalProperties' must be false")
    for part in schema.get("properties", {}).values():
        _check_schema(part)


def schema_of(body: Body) -> Body | None:
    form = (body.get("output_config") or {}).get("format") or {}
    return form.get("schema") if form.get("type") == "json_schema" else None


def text_of(content: str | list[Body] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.get("text", "") for block in content)


def verdict(schema: Body, prompt: str, fault: str | None = None, case: Random | None = None) -> Any:
    """Return a value that fits the schema, a function of `prompt`, unless there is a fault."""
    number = int.from_bytes(sha256(prompt.encode()).digest()[:4])
    if "properties" in schema:
        parts = schema["properties"].items()
        return {name: verdict(part, f"{prompt}\0{name}", fault, case) for name, part in parts}
    if options := schema.get("enum"):
        option = "none of these" if fault == "wrong_option" else options[number % len(options)]
        if case is None or not isinstance(option, str):
            return option
        return case.choice((str.upper, str.lower, str.title))(option)
    if schema.get("type") in ("integer", "number"):
        return (101 + number % 900) if fault == "out_of_range" else number % 101
    return number % 2 == 0 if schema.get("type") == "boolean" else f"text {number % 1000}"


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def iso_date(moment: float | None) -> str | None:
    return datetime.fromtimestamp(moment, UTC).isoformat() if moment else None


def http_answer(status: int, body: bytes, header: Mapping[str, str] | None = None) -> bytes:
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "request-id": f"req_{secrets.token_hex(12)}",
        **{name.replace("_", "-"): value for name, value in (header or {}).items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} -\r\n{lines}\r\n".encode() + body


async def pause(seconds: float, enough: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not enough() and (rest := until - time.monotonic()) > 0:
        await asyncio.sleep(min(rest, 0.02))


def queued() -> float:
    """Return the seconds in which this thread was ready but other processes had the processor.

    Returns 0 where the system does not count them (macOS).
    """
    schedstat = Path("/proc/thread-self/schedstat")
    return int(schedstat.read_text().split()[1]) / 1e9 if schedstat.exists() else 0.0
