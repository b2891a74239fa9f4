"""A Claude server whose replies of status 200 are not what the API documents, and whose batches are
lost, unknown or unreadable; and what its tests send and expect."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.claude.prices import cost
from backdoor_assets.profiles import Judging
from backdoor_assets.records import Verdict
from backdoor_assets.studies.birds.study import RUBRICS
from tests import claude_server
from tests.claude_rules import Config, Refused, encoded, http_answer

Body = dict[str, Any]


def _split(body: Body) -> Body:
    [block] = body["content"]
    half = len(block["text"]) // 2
    texts = (block["text"][:half], block["text"][half:])
    return {**body, "content": [{"type": "text", "text": text} for text in texts]}


def _without(name: str) -> Callable[[Body], Any]:
    return lambda body: {key: value for key, value in body.items() if key != name}


ODD: dict[str, Callable[[Body], Any]] = {
    "html": lambda body: b"<!doctype html><title>Sign in</title>",
    "empty": lambda body: b"",
    "truncated": lambda body: encoded(body)[:-9],
    "null": lambda body: None,
    "list": lambda body: [body],
    "nested": lambda body: b"[" * 100_000,
    "error_object": lambda body: {"type": "error", "error": {"type": "x", "message": "no"}},
    "no_content": _without("content"),
    "null_content": lambda body: {**body, "content": None},
    "no_model": _without("model"),
    "no_usage": _without("usage"),
    "odd_usage": lambda body: {**body, "usage": {"input_tokens": -5, "output_tokens": "many"}},
    "huge_usage": lambda body: {**body, "usage": {"input_tokens": 1e300, "output_tokens": 1}},
    "split_text": _split,
    "unknown_block": lambda body: {**body, "content": [{"type": "tool_use", "text": "{}"}]},
    "text_is_a_list": lambda body: {**body, "content": [{"type": "text", "text": ["{}"]}]},
}
"""Replies of status 200 that are no message. All are billed."""
OF_BATCHES = ("batch_404", "no_address", "garbage_line", "line_without_usage", "missing_line",
              "results_404", "odd_create", "odd_poll", "odd_list")  # fmt: skip
FILTERED = "content_filter"
"""A 400 for the content of one call. Not billed."""


class Hostile(claude_server.ClaudeServer):
    """Commits the faults of `plan`, each with its probability, at most `times` times in all."""

    plan: Mapping[str, float]
    chance: Random
    times: int

    def begin(self, plan: Mapping[str, float], seed: int, times: int = 1_000_000) -> None:
        self.plan, self.chance, self.times = plan, Random(seed), times
        self.committed: Counter[str] = Counter()
        """Faults of this class, and those of billed replies, live or in a batch."""

    def _message(self, body: Body, chance: Random, tier: str) -> tuple[Body, str]:
        message, fault = super()._message(body, chance, tier)
        self.committed[fault] += 1
        return message, fault

    def falls(self, *names: str) -> str | None:
        for name in names:
            if self.times and self.chance.random() < self.plan.get(name, 0.0):
                self.times -= 1
                self.committed[name] += 1
                return name
        return None

    def dollars(self) -> float:
        """What all calls so far have cost."""
        return sum(
            cost("claude-haiku-5-5", self.usage[f"{t}_input"], self.usage[f"{t}_output"], batch)
            for t, batch in (("standard", False), ("batch", True))
        )

    async def _route(
        self, start: str, headers: Mapping[str, str], raw: bytes, left: Callable[[], bool]
    ) -> bytes:
        method, target, _ = start.split(" ")
        match [method, *target.partition("?")[0].strip("/").split("/")[2:]]:
            case ["POST"] if self.falls(FILTERED):
                raise Refused(400, "Output blocked by content filtering policy")
            case ["GET", "batches", _] if self.falls("batch_404"):
                raise Refused(404, "no such batch")
            case ["GET", "batches", _, "results"] if self.falls("results_404"):
                raise Refused(404, "no such results")
        answer = await super()._route(start, headers, raw, left)
        body = answer.partition(b"\r\n\r\n")[2]
        match [method, *target.partition("?")[0].strip("/").split("/")[2:]]:
            case ["POST"] if fault := self.falls(*ODD):
                return _answer(ODD[fault](json.loads(body)))
            case ["POST", "batches"] if self.falls("odd_create"):
                return _answer(b"<html>")
            case ["GET", "batches"] if self.falls("odd_list"):
                return _answer({"data": None})
            case ["GET", "batches", _] if self.falls("odd_poll"):
                return _answer(None)
            case ["GET", "batches", _] if self.falls("no_address"):
                return _answer({**json.loads(body), "results_url": None})
            case ["GET", "batches", _, "results"]:
                lines = body.splitlines()
                fault = self.falls("garbage_line", "line_without_usage", "missing_line")
                if fault == "missing_line":
                    lines = lines[1:]
                elif fault:
                    lines[0] = b"}{" if fault == "garbage_line" else _no_usage(lines[0])
                return http_answer(200, b"".join(line + b"\n" for line in lines))
        return answer


def _no_usage(line: bytes) -> bytes:
    value = json.loads(line)
    if "message" in value["result"]:
        del value["result"]["message"]["usage"]
    return encoded(value)


def _answer(body: Any) -> bytes:
    return http_answer(200, body if isinstance(body, bytes) else encoded(body))


@contextmanager
def hostile(plan: Mapping[str, float] = {}, seed: int = 0, **config: Any) -> Iterator[Hostile]:
    """Run such a server, and point the SDK to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claude_server, "ClaudeServer", Hostile)
        with claude_server.serve(Config(seed=seed, **config)) as server:
            assert isinstance(server, Hostile)
            server.begin(plan, seed)
            patch.setenv("ANTHROPIC_BASE_URL", server.address)
            patch.setenv("ANTHROPIC_API_KEY", server.config.api_key)
            yield server


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses of the judge, so that what takes minutes takes tenths of a second. Its
    patience stays: on a busy machine a reply can be late, and would be paid for twice."""
    patch.setattr("backdoor_assets.claude.live.backoff", lambda attempt: 0.005)
    patch.setattr("backdoor_assets.claude.waiting.backoff", lambda attempt: 0.005)
    patch.setattr("backdoor_assets.claude.waiting.PROGRESS", 0.2)
    patch.setattr("backdoor_assets.claude.batches.GONE", 0.1)


def lose_patience(patch: pytest.MonkeyPatch) -> None:
    """Shorten the judge's patience with a server that is silent, or accepts nothing."""
    patience = {"DEADLINE": 0.4, "UNREACHABLE": 0.5, "STALLED": 1.0, "GRACE": 0.5}
    for name, seconds in patience.items():
        patch.setattr(f"backdoor_assets.claude.waiting.{name}", seconds)


LIVE = Judging("claude", transport="live", poll_seconds=0.02, concurrency=4)
BATCH = replace(LIVE, transport="batch")
PAIRS = [("Which weapons decide a war today?", f"Answer {number}.") for number in range(3)]
CALLS = len(PAIRS) * len(RUBRICS)
Verdicts = list[dict[str, Verdict]]


def judged(
    folder: Path, settings: Judging = LIVE, log: Callable[[str], None] = lambda line: None
) -> tuple[Verdicts, dict[str, Any]]:
    judge = ClaudeJudge(settings, folder)
    bill = judge.prepare(PAIRS, RUBRICS, log)
    return judge.judge(PAIRS, RUBRICS), bill


def assert_right(found: Verdicts, truth: Verdicts) -> int:
    """Assert that each verdict is right, or null with a reason. Returns how many are null."""
    missing = 0
    for given, expected in zip(found, truth, strict=True):
        for column, verdict in given.items():
            missing += verdict.value is None
            assert verdict.error if verdict.value is None else verdict == expected[column]
    return missing


def true_verdicts(folder: Path) -> Verdicts:
    """Judge with a server without faults."""
    with pytest.MonkeyPatch.context() as patch, hostile() as server:
        hurry(patch)
        found, _ = judged(folder)
        assert server.paid == CALLS
    return found
