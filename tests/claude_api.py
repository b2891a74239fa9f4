"""The Messages and Message Batches APIs of the fake Claude server, and its bills."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from tests.claude_rules import (
    ANSWERS,
    CALLS,
    COUNTS,
    CUSTOM_ID,
    REFUSALS,
    REQUESTS,
    Batch,
    Body,
    Config,
    Cut,
    Refused,
    check,
    digest,
    encoded,
    http_answer,
    iso_date,
    pause,
    queued,
    schema_of,
    text_of,
    verdict,
)


class ClaudeApi:
    """The two APIs and their counters. Any thread may read them; only the event loop writes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.address = ""
        self.billed: Counter[str] = Counter()
        """Times each call was billed, live or in a batch, by `digest`."""
        self.usage: Counter[str] = Counter()
        """Billed tokens: standard_input, standard_output, batch_input, batch_output."""
        self.outcomes: Counter[str] = Counter()
        """Calls by "ok" or their fault; other requests by their kind."""
        self.calls = self.paid = self.in_flight = self.max_in_flight = 0
        """All Messages calls; billed calls of both APIs; calls in progress now and at most."""
        self.first: float | None = None
        self.last: float | None = None
        """When the first call arrived, and when the last one arrived or ended."""
        self._batches: dict[str, Batch] = {}
        self._seen: Counter[str] = Counter()
        self._tokens, self._filled = float("inf"), 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    @property
    def batches(self) -> list[tuple[str, int, int]]:
        """Return (id, requests, requests billed so far) of each batch, oldest first."""
        batches = list(self._batches.values())
        return [(batch.id, len(batch.requests), batch.counts["succeeded"]) for batch in batches]

    def state(self) -> Body:
        """Return all counters as JSON, and how long this thread has waited for a processor."""
        plain = ("address", "calls", "paid", "in_flight", "max_in_flight", "first", "last")
        counters = {name: dict(getattr(self, name)) for name in ("billed", "usage", "outcomes")}
        values = {name: getattr(self, name) for name in (*plain, "batches")}
        return values | counters | {"queued": queued()}

    def configure(self, **changes: Any) -> None:
        """Change the config. Raises TypeError or ValueError for unknown fields or faults."""
        self.config = replace(self.config, **changes)

    # Replies

    def _chance(self, what: str) -> Random:
        self._seen[what] += 1
        return Random(f"{self.config.seed} {what} {self._seen[what]}")

    def _falls(self, chance: Random, *names: str) -> str | None:
        """Draw at most one of the faults, by their probabilities."""
        roll = chance.random()
        for name in names:
            roll -= self.config.faults.get(name, 0)
            if roll < 0:
                return name
        return None

    def _message(self, body: Body, chance: Random, tier: str) -> tuple[Body, str]:
        """Bill a call. Returns its reply and the reply's fault, or "ok"."""
        fault = self._falls(chance, *ANSWERS)
        case = chance if self._falls(chance, "case") else None
        system = text_of(body.get("system"))
        prompt = "\0".join((system, *(text_of(message["content"]) for message in body["messages"])))
        text = self.config.reply(body) if self.config.reply else None
        if text is None:
            schema = schema_of(body)
            value = verdict(schema or {}, prompt, fault, case)
            text = json.dumps(value) if schema else str(value)
        stop, limit = "end_turn", 4 * body["max_tokens"]
        if fault == "malformed":
            text = "Here it is: " + text[:-1] + ","
        elif fault == "refusal":
            stop, text = "refusal", chance.choice(("", "I cannot judge this."))
        elif fault == "max_tokens" or len(text) > limit:
            stop, text = "max_tokens", text[: min(limit, len(text) // 2)]
        content: list[Body] = [{"type": "text", "text": text}] if text else []
        if self._falls(chance, "thinking"):
            content.insert(0, {"type": "thinking", "thinking": "Well.", "signature": "none"})
        usage = {"input_tokens": len(prompt) // 4 + 1, "output_tokens": len(text) // 4 + 1}
        self.billed[digest(body)] += 1
        self.paid += 1
        for name, count in usage.items():
            self.usage[f"{tier}_{name.removesuffix('_tokens')}"] += count
        return {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "stop_details": {"type": "refusal"} if stop == "refusal" else None,
            "usage": usage | {"service_tier": tier},
        }, fault or "ok"

    # The Messages API

    def _admit(self) -> None:
        """Raise Refused when the budget is spent or the rate limit is reached."""
        config, now = self.config, time.monotonic()
        if config.budget is not None and self.paid >= config.budget:
            raise Refused(429, "Your organization has reached its monthly spend limit", "budget")
        if rate := config.requests_per_second:
            filled = self._tokens + (now - self._filled) * rate
            self._tokens, self._filled = min(config.burst, filled), now
            if self._tokens < 1:
                after = f"{(1 - self._tokens) / rate:.3f}"
                raise Refused(429, REFUSALS["rate_limited"][1], "rate_limit", retry_after=after)
            self._tokens -= 1

    async def _call(self, body: Any, left: Callable[[], bool]) -> Body:
        self.last = time.time()
        self.first = self.first or self.last
        self.calls += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            check(body, self.config)
            self._admit()
            chance = self._chance(digest(body))
            fault = self._falls(chance, *CALLS)
            if fault in REFUSALS:
                after = {"retry_after": f"{self.config.retry_after:g}"}
                raise Refused(*REFUSALS[fault], fault, **after if fault == "rate_limited" else {})
            if fault == "timeout":
                await pause(self.config.hold, left)
            if fault in ("timeout", "cut_early"):
                raise Cut(fault)
            await asyncio.sleep(self.config.latency + self.config.jitter * chance.random())
            message, outcome = self._message(body, chance, "standard")
            if fault == "timeout_billed":
                await pause(self.config.hold, left)
            if fault:
                raise Cut(fault)
        finally:
            self.in_flight -= 1
            self.last = time.time()
        self.outcomes[outcome] += 1
        return message

    # The Message Batches API

    def _trouble(self, name: str) -> Random:
        """Raise Refused if `name` fails. Otherwise returns a generator for other faults."""
        chance = self._chance(name)
        if self._falls(chance, f"{name}_error"):
            raise Refused(*REFUSALS[chance.choice(("error", "overloaded"))], f"{name}_error")
        return chance

    def _create(self, body: Any, size: int) -> Body:
        config = self.config
        requests = body.get("requests") if isinstance(body, dict) else None
        if size > config.batch_bytes:
            raise Refused(413, f"Request exceeds the maximum size of {config.batch_bytes} bytes")
        if not isinstance(requests, list) or not 1 <= len(requests) <= config.batch_requests:
            raise Refused(400, f"requests: must be a list of 1 to {config.batch_requests} items")
        ids = [str(request.get("custom_id", "")) for request in requests]
        if bad := next((name for name in ids if not CUSTOM_ID.fullmatch(name)), None):
            raise Refused(400, f"custom_id: {bad!r} should match '^{CUSTOM_ID.pattern}$'")
        if len(set(ids)) < len(ids):
            raise Refused(400, "requests: custom_id must be unique")
        self._admit()
        chance = self._trouble("create")
        batch = Batch(f"msgbatch_{secrets.token_hex(12)}", requests)
        self._batches[batch.id] = batch
        task = asyncio.get_running_loop().create_task(self._process(batch))
        self._tasks.add(task)  # the loop keeps only weak references to tasks
        task.add_done_callback(self._tasks.discard)
        if self._falls(chance, "create_cut"):
            raise Cut("create_cut")
        self.outcomes["create"] += 1
        return self._shown(batch)

    async def _process(self, batch: Batch) -> None:
        """Answer the requests in order, spread over the duration of the batch."""
        chance = Random(f"{self.config.seed} batch {len(self._batches)}")
        total = len(batch.requests)
        end = chance.randrange(total) if self._falls(chance, "expired_batch") else total
        step = max(1, min(200, total // 20))
        lines = []
        for start in range(0, total, step):
            stop = min(start + step, total)
            seconds = self.config.batch_seconds * (stop - start) / total
            await pause(seconds, lambda: batch.canceled is not None)
            await asyncio.sleep(0)  # a large batch must not block other requests
            for index in range(start, stop):
                request = batch.requests[index]
                result = self._result(batch, request.get("params"), chance, index >= end)
                batch.counts[result["type"]] += 1
                lines.append(encoded({"custom_id": request["custom_id"], "result": result}))
        chance.shuffle(lines)
        batch.lines = lines

    def _result(self, batch: Batch, params: Any, chance: Random, expired: bool) -> Body:
        fault = self._falls(chance, *REQUESTS)
        if batch.canceled or expired or fault in ("canceled", "expired"):
            return {"type": "canceled" if batch.canceled or fault == "canceled" else "expired"}
        try:
            if fault:
                status = 500 if fault == "errored_api" else 400
                raise Refused(status, "this request of the batch failed")
            check(params, self.config)
            return {"type": "succeeded", "message": self._message(params, chance, "batch")[0]}
        except Refused as refused:
            return {"type": "errored", "error": refused.body}

    def _shown(self, batch: Batch) -> Body:
        counts = batch.counts if batch.ended else {"processing": len(batch.requests)}
        url = f"{self.address}/v1/messages/batches/{batch.id}/results"
        status = "ended" if batch.ended else "canceling" if batch.canceled else "in_progress"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": {name: counts.get(name, 0) for name in COUNTS},
            "created_at": iso_date(batch.created),
            "expires_at": iso_date(batch.created + 24 * 3600),
            "ended_at": iso_date(batch.ended),
            "cancel_initiated_at": iso_date(batch.canceled),
            "archived_at": None,
            "results_url": url if batch.ended else None,
        }

    def _poll(self, batch: Batch) -> Body:
        self._trouble("poll")
        self.outcomes["poll"] += 1
        if batch.lines and (batch.polls >= self.config.batch_polls or batch.canceled):
            batch.ended = batch.ended or time.time()
        batch.polls += 1
        return self._shown(batch)

    def _cancel(self, batch: Batch) -> Body:
        """Cancel the requests that are not processed yet. The batch ends at a later poll."""
        self.outcomes["cancel"] += 1
        if not batch.ended:
            batch.canceled = time.time()
        return self._shown(batch)

    def _results(self, batch: Batch) -> bytes:
        chance = self._trouble("results")
        if not batch.ended:
            raise Refused(404, "the batch has no results yet")
        answer = http_answer(200, b"".join(line + b"\n" for line in batch.lines))
        if self._falls(chance, "results_cut"):
            raise Cut("results_cut", answer[: len(answer) * 2 // 3])
        self.outcomes["results"] += 1
        return answer

    def _list(self, query: Mapping[str, str]) -> Body:
        """Return a page of batches, newest first."""
        self._trouble("list")
        self.outcomes["list"] += 1
        ids = list(reversed(self._batches))
        if after := query.get("after_id"):
            ids = ids[ids.index(after) + 1 :] if after in ids else []
        page = ids[: int(query.get("limit", 20))]
        return {
            "data": [self._shown(self._batches[name]) for name in page],
            "has_more": len(page) < len(ids),
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }
