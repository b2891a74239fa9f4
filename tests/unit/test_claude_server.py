"""The fake Claude API, called through the real SDK."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from tests.claude_client import (
    OPTIONS,
    ask,
    ask_async,
    asynchronous,
    call,
    text,
)
from tests.claude_rules import digest
from tests.claude_server import ClaudeServer, Config, serve


@pytest.mark.parametrize("send", [ask, ask_async])
def test_a_reply_fits_the_schema_and_is_the_same_again(send: Callable[..., Any]) -> None:
    with serve() as server:
        first, again, other = (send(server, call(what)) for what in ("a", "a", "b"))
        verdict = json.loads(text(first))
        assert set(verdict) == {"era", "score"}
        assert verdict["era"] in OPTIONS
        assert 0 <= verdict["score"] <= 100
        assert text(again) == text(first) != text(other)
        assert first.stop_reason == "end_turn"
        assert server.billed == {digest(call("a")): 2, digest(call("b")): 1}
        assert server.usage["standard_input"] > 3 < first.usage.output_tokens
        assert server.outcomes == {"ok": 3}
        assert server.first is not None
        assert server.last is not None
        assert server.first <= server.last


@pytest.mark.parametrize("send", [ask, ask_async])
@pytest.mark.parametrize(
    ("fault", "error", "billed"),
    [
        ("rate_limited", anthropic.RateLimitError, 0),
        ("overloaded", anthropic.InternalServerError, 0),
        ("error", anthropic.InternalServerError, 0),
        ("usage_limit", anthropic.BadRequestError, 0),
        ("timeout", anthropic.APITimeoutError, 0),
        ("timeout_billed", anthropic.APITimeoutError, 1),
        ("cut_early", anthropic.APIConnectionError, 0),
        ("cut", anthropic.APIConnectionError, 1),
    ],
)
def test_a_fault_of_a_call_raises_the_same_error_as_the_api(
    send: Callable[..., Any], fault: str, error: type[anthropic.APIError], billed: int
) -> None:
    with serve(Config(faults={fault: 1})) as server:
        with pytest.raises(error) as raised:
            send(server, call(), timeout=0.3)
        if isinstance(raised.value, anthropic.RateLimitError):
            assert raised.value.response.headers["retry-after"] == "1"
        if isinstance(raised.value, anthropic.InternalServerError):
            assert raised.value.status_code == {"overloaded": 529, "error": 500}[fault]
        assert server.billed.total() == billed
        while server.in_flight:  # until the server notices that a timed-out client has disconnected
            time.sleep(0.01)
    assert server.outcomes == {fault: 1}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"temperature": 0.5}, anthropic.BadRequestError),
        ({"top_p": 0.5}, anthropic.BadRequestError),
        ({"top_k": 5}, anthropic.BadRequestError),
        ({"max_tokens": None}, anthropic.BadRequestError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"messages": [{"role": "assistant", "content": "{"}]}, anthropic.BadRequestError),
        (
            {"model": "claude-sonnet-5-5", "thinking": {"type": "disabled"}},
            anthropic.BadRequestError,
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            anthropic.BadRequestError,
        ),
        ({"model": "claude-sonnet-4-20250514"}, anthropic.NotFoundError),
    ],
)
def test_a_body_that_the_api_would_refuse_is_refused(
    changes: dict[str, Any], error: type[anthropic.APIError]
) -> None:
    with serve() as server:
        with pytest.raises(error):
            ask(server, call(**changes))
        assert not server.billed


def test_a_wrong_key_is_refused() -> None:
    with serve() as server, pytest.raises(anthropic.AuthenticationError):
        ask(server, call(), api_key="another")


@pytest.mark.parametrize(
    "fault",
    ["malformed", "wrong_option", "out_of_range", "refusal", "max_tokens", "case", "thinking"],
)
def test_a_fault_of_a_reply_is_in_its_text_or_its_stop_reason(fault: str) -> None:
    with serve() as server:
        sound = json.loads(text(ask(server, call())))
    with serve(Config(faults={fault: 1})) as server:
        reply = ask(server, call())
        assert server.billed.total() == 1
    if fault in ("refusal", "max_tokens"):
        assert reply.stop_reason == fault
    if fault in ("malformed", "refusal", "max_tokens"):
        with pytest.raises(json.JSONDecodeError):
            json.loads(text(reply))
        return
    verdict = json.loads(text(reply))
    assert (verdict["era"].lower() == sound["era"].lower()) == (fault != "wrong_option")
    assert (verdict["score"] == sound["score"]) == (fault != "out_of_range")
    assert [block.type for block in reply.content] == ["thinking"] * (fault == "thinking") + [
        "text"
    ]


def test_a_spent_budget_stays_spent_and_gives_no_time_to_wait() -> None:
    with serve(Config(budget=2)) as server:
        for _ in range(2):
            ask(server, call())
        for _ in range(3):
            with pytest.raises(anthropic.RateLimitError) as raised:
                ask(server, call())
            assert "retry-after" not in raised.value.response.headers
            assert raised.value.error_code == "enforced_spend_limit_reached"
        assert server.paid == 2


def test_a_bucket_of_tokens_limits_the_rate_and_calls_run_at_once() -> None:
    async def all_at_once(server: ClaudeServer) -> None:
        # All waiting calls retry at the same moment, most of them more than once.
        async with asynchronous(server, max_retries=1000) as claude:
            calls = (claude.messages.create(**call(f"bird {n}")) for n in range(12))
            await asyncio.gather(*calls)

    config = Config(requests_per_second=20, burst=5, latency=0.05, jitter=0.02)
    with serve(config) as server:
        began = time.monotonic()
        asyncio.run(all_at_once(server))
        assert time.monotonic() - began > 6 / 20
        assert server.paid == server.outcomes["ok"] == 12
        assert server.outcomes["rate_limit"] == server.calls - 12 > 0
        assert server.max_in_flight > 1


def test_faults_depend_on_seed_and_call_but_not_on_order() -> None:
    def outcomes(order: list[int], seed: int) -> dict[int, bool]:
        found = {}
        with serve(Config(faults={"error": 0.5}, seed=seed)) as server:
            for number in order:
                try:
                    ask(server, call(f"bird {number}"))
                    found[number] = True
                except anthropic.InternalServerError:
                    found[number] = False
        return found

    order = list(range(20))
    assert outcomes(order, 0) == outcomes(order[::-1], 0) != outcomes(order, 1)


def test_a_hook_sets_the_reply() -> None:
    with serve(Config(reply=lambda body: "mine" if "system" in body else None)) as server:
        assert text(ask(server, call())) == "mine"
