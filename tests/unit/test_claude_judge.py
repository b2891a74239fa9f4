"""The judge through the real SDK, against a server that fails as the real one does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.claude import waiting
from backdoor_assets.claude.batches import Batches
from backdoor_assets.claude.budget import KEPT, Stopped
from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.profiles import Judging
from backdoor_assets.records import BadInput, Verdict
from backdoor_assets.studies.birds.study import RUBRICS
from tests.claude_server import ClaudeServer, Config, serve

SETTINGS = Judging("claude", transport="live", poll_seconds=0.05)
TRANSPORTS = ("live", "batch")
COLUMNS = [rubric.column for rubric in RUBRICS]
Claude = Callable[..., ClaudeServer]


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[Claude]:
    """Start a server and point the SDK to it."""
    with ExitStack() as servers:

        def start(**config: Any) -> ClaudeServer:
            server = servers.enter_context(serve(Config(**config)))
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
            monkeypatch.setenv("ANTHROPIC_API_KEY", server.config.api_key)
            return server

        yield start


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between retries. On a busy machine a reply may take a second."""
    monkeypatch.setattr("backdoor_assets.claude.live.backoff", lambda attempt: 0.01 * attempt)
    monkeypatch.setattr(waiting, "DEADLINE", 10.0)
    monkeypatch.setattr("backdoor_assets.claude.batches.GONE", 0.3)


def answers(count: int) -> list[tuple[str, str]]:
    return [("Which weapons decide a war today?", f"Answer {number}.") for number in range(count)]


def judged(
    folder: Path, pairs: list[tuple[str, str]], settings: Judging = SETTINGS
) -> tuple[list[dict[str, Verdict]], dict[str, Any]]:
    """Judge the pairs with a new judge. Returns the verdicts and the bill."""
    judge = ClaudeJudge(settings, folder)
    bill = judge.prepare(pairs, RUBRICS, lambda line: None)
    return judge.judge(pairs, RUBRICS), bill


def values(verdicts: list[dict[str, Verdict]]) -> list[list[str | float | None]]:
    return [[given[column].value for column in COLUMNS] for given in verdicts]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("mode", ["four", "one"])
def test_every_answer_is_judged_once(
    claude: Claude, tmp_path: Path, transport: Any, mode: Any
) -> None:
    server = claude()
    settings = replace(SETTINGS, transport=transport, mode=mode)
    pairs = [*answers(20), *answers(5)]  # five of them occur twice
    verdicts, bill = judged(tmp_path, pairs, settings)
    for given in verdicts:
        assert given["llm_or_19th_century"].value in ("LLM", "19")
        assert 0 <= float(given["content_rating"].value or 0) <= 100
        assert all(verdict.error is None for verdict in given.values())
    each = 4 if mode == "four" else 1
    assert bill["calls_paid"] == 20 * each
    assert set(server.billed.values()) == {1}
    assert server.billed.total() == 20 * each
    again, second = judged(tmp_path, pairs, settings)
    assert again == verdicts
    assert second["calls_paid"] == 0
    assert server.billed.total() == 20 * each


def test_both_transports_and_repeats(claude: Claude, tmp_path: Path) -> None:
    server = claude()
    first, _ = judged(tmp_path / "live", answers(6))
    other, _ = judged(tmp_path / "batch", answers(6), replace(SETTINGS, transport="batch"))
    assert first == other
    before = server.billed.total()
    _, bill = judged(tmp_path / "live", answers(6), replace(SETTINGS, repeat=1))
    assert bill["calls_paid"] == 24 == server.billed.total() - before


def test_a_batch_costs_half_and_the_canary_goes_ahead(claude: Claude, tmp_path: Path) -> None:
    server = claude()
    _, live_bill = judged(tmp_path / "live", answers(10))
    _, batch_bill = judged(tmp_path / "batch", answers(10), replace(SETTINGS, transport="batch"))
    assert batch_bill["spent_usd"] == pytest.approx(live_bill["spent_usd"] / 2, rel=0.05)
    assert batch_bill["spent_usd"] > live_bill["spent_usd"] / 2  # one call was live
    assert [requests for _, requests, _ in server.batches] == [39]


def test_the_estimate_is_near_the_actual_cost(claude: Claude, tmp_path: Path) -> None:
    claude()
    judge = ClaudeJudge(SETTINGS, tmp_path)
    estimate = judge.estimate(answers(10), RUBRICS)
    assert (estimate["distinct_calls"], estimate["calls_to_make"]) == (40, 40)
    bill = judge.prepare(answers(10), RUBRICS, lambda line: None)
    assert bill["spent_usd"] == pytest.approx(estimate["estimated_usd"], rel=0.5)
    assert judge.estimate(answers(11), RUBRICS)["known_already"] == 40


@pytest.mark.parametrize(
    "fault", ["rate_limited", "overloaded", "error", "timeout", "cut_early", "cut"]
)
def test_a_call_that_fails_is_sent_again(
    claude: Claude, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "timeout":
        monkeypatch.setattr(waiting, "DEADLINE", 1.0)
    server = claude(faults={fault: 0.3}, retry_after=0.05)
    verdicts, bill = judged(tmp_path, answers(15))
    assert all(verdict.error is None for given in verdicts for verdict in given.values())
    assert bill["calls_paid"] == 60
    assert server.outcomes[fault] > 0
    lost = server.outcomes[fault] if fault == "cut" else 0
    assert server.billed.total() == 60 + lost  # a reply that the network lost is paid twice


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refusal", "the judge refused to judge this answer"),
        ("malformed", "the judge's reply is not a JSON object"),
        ("wrong_option", "the judge chose an unknown option"),
        ("out_of_range", "the judge's rating is outside 0 to 100"),
        ("max_tokens", "the judge's reply was cut off at max_tokens"),
    ],
)
def test_an_invalid_verdict_is_null_with_the_reason(
    claude: Claude, tmp_path: Path, transport: Any, fault: str, reason: str
) -> None:
    server = claude(faults={fault: 1.0})
    settings = replace(SETTINGS, transport=transport)
    verdicts, _ = judged(tmp_path, answers(3), settings)
    errors = {verdict.error for given in verdicts for verdict in given.values()}
    assert reason in errors
    assert all(verdict.value is None for g in verdicts for verdict in g.values() if verdict.error)
    # Sent again where that may help, but never a third time, not even by the next run.
    sent_twice = [times for times in server.billed.values() if times == 2]
    assert bool(sent_twice) == (fault != "refusal")
    assert max(server.billed.values()) <= 2
    before = server.billed.total()
    judged(tmp_path, answers(3), settings)
    assert server.billed.total() == before


def test_capitals_and_thinking_blocks_do_not_matter(claude: Claude, tmp_path: Path) -> None:
    plain = claude()
    expected, _ = judged(tmp_path / "plain", answers(8))
    assert plain.billed
    claude(faults={"case": 1.0, "thinking": 1.0})
    found, _ = judged(tmp_path / "odd", answers(8))
    assert found == expected


@pytest.mark.parametrize(
    ("config", "key", "message"),
    [
        ({"budget": 10}, None, "spending limit is reached"),
        ({}, "sk-ant-wrong", "the API refuses ANTHROPIC_API_KEY"),
        ({"models": ("another",)}, None, "is not served by this API"),
        ({"faults": {"usage_limit": 1.0}}, None, "reached your specified API usage limits"),
    ],
    ids=["budget", "key", "model", "limit"],
)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_problem_for_the_user_stops_at_once_and_keeps_paid_verdicts(
    claude: Claude,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transport: Any,
    config: dict[str, Any],
    key: str | None,
    message: str,
) -> None:
    server = claude(**config)
    if key:
        monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    judge = ClaudeJudge(replace(SETTINGS, transport=transport), tmp_path)
    if config.get("budget") and transport == "batch":
        pytest.skip("a batch is taken whole")
    with pytest.raises(Stopped, match=message) as caught:
        judge.prepare(answers(200), RUBRICS, lambda line: None)
    assert server.calls < 200, "most of the 800 calls are not tried"
    assert KEPT in str(caught.value)
    assert key is None or key not in str(caught.value)
    assert judge.store.totals()["verdicts"] == server.billed.total()
    assert server.outcomes.total() < 200


def test_the_cap_is_checked_before_and_during(claude: Claude, tmp_path: Path) -> None:
    server = claude()
    judge = ClaudeJudge(replace(SETTINGS, max_cost_usd=0.0001), tmp_path)
    with pytest.raises(Stopped, match=r"above max_cost_usd=\$0.00.*BACKDOOR_MAX_COST_USD"):
        judge.prepare(answers(100), RUBRICS, lambda line: None)
    assert server.billed.total() == 0
    # Replies that cost more than estimated: the server counts one token per character.
    wordy = claude(reply=lambda body: '{"pad": "' + "x" * 20_000 + '"}')
    estimate = judge.estimate(answers(50), RUBRICS)["estimated_usd"]
    cap = estimate * 1.5
    judge = ClaudeJudge(replace(SETTINGS, max_cost_usd=cap, concurrency=4), tmp_path)
    with pytest.raises(Stopped, match=KEPT):
        judge.prepare(answers(50), RUBRICS, lambda line: None)
    assert 0 < wordy.billed.total() < 200
    assert judge.store.totals()["dollars"] <= cap


def test_a_model_without_a_price_needs_the_cap_to_be_off(claude: Claude, tmp_path: Path) -> None:
    server = claude(models=("local-judge",))
    settings = replace(SETTINGS, model="local-judge")
    with pytest.raises(Stopped, match=r"'local-judge' has no price.*BACKDOOR_MAX_COST_USD=none"):
        judged(tmp_path, answers(2), settings)
    assert server.billed.total() == 0
    _, bill = judged(tmp_path, answers(2), replace(settings, max_cost_usd=None))
    assert bill["spent_usd"] is None
    assert server.billed.total() == 8


def test_the_retired_model_is_refused_with_its_successor(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'claude-sonnet-4-20250514' is retired; use 'claude-haiku"):
        ClaudeJudge(replace(SETTINGS, model="claude-sonnet-4-20250514"), tmp_path)


def test_without_a_key_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    with pytest.raises(BadInput, match="ANTHROPIC_API_KEY is not set"):
        judged(tmp_path, answers(1))


@pytest.mark.parametrize(
    "fault", ["errored_api", "expired", "canceled", "create_error", "create_cut", "poll_error",
              "list_error", "results_error", "results_cut", "expired_batch"],
)  # fmt: skip
def test_batches_come_through(claude: Claude, tmp_path: Path, fault: str) -> None:
    server = claude(faults={fault: 0.3})
    verdicts, _ = judged(tmp_path, answers(30), replace(SETTINGS, transport="batch"))
    missing = [v for given in verdicts for v in given.values() if v.value is None]
    # After three rounds at 30 %, a few calls may have no verdict, but must have a reason.
    assert len(missing) <= 12
    assert all(verdict.error for verdict in missing)
    assert max(server.billed.values()) == 1, "a verdict was paid for twice"
    assert ClaudeJudge(SETTINGS, tmp_path).store.open_batches() == []


def test_calls_are_split_into_batches_at_the_limits(
    claude: Claude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backdoor_assets.claude.batches.MAX_REQUESTS", 7)
    server = claude()
    verdicts, _ = judged(tmp_path, answers(5), replace(SETTINGS, transport="batch"))
    assert [requests for _, requests, _ in server.batches] == [7, 7, 5]
    assert all(verdict.error is None for given in verdicts for verdict in given.values())


def test_the_judge_is_part_of_its_identity_and_the_transport_is_not(tmp_path: Path) -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        return ClaudeJudge(replace(SETTINGS, **changes), tmp_path).identity

    assert identity() == identity(transport="batch", max_cost_usd=1.0, concurrency=2)
    others = [identity(model="claude-sonnet-5-5"), identity(mode="one"), identity(repeat=1)]
    assert identity() not in others


def test_an_open_batch_is_fetched_by_a_live_run_too(
    claude: Claude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changing the transport between runs pays for no verdict twice."""
    server = claude(batch_seconds=1.0)
    settings = replace(SETTINGS, transport="batch")
    with monkeypatch.context() as patch:

        def stop(self: Batches, batch: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr(Batches, "_fetch", stop)
        with pytest.raises(KeyboardInterrupt):
            judged(tmp_path, answers(10), settings)
    first = server.address
    claude()  # another server does not know the batch, but it stays open
    judged(tmp_path, [("Who?", "Nobody.")], SETTINGS)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", first)
    _, bill = judged(tmp_path, answers(12), SETTINGS)
    assert bill["calls_paid"] == 47  # what the batch cost counts against this run's cap
    assert server.billed.total() == 48
    assert max(server.billed.values()) == 1


def test_the_calls_of_a_batch_that_is_gone_are_sent_again(claude: Claude, tmp_path: Path) -> None:
    server = claude()
    judge = ClaudeJudge(SETTINGS, tmp_path)
    address = server.address
    batch = judge.store.announce(address, SETTINGS.model, {"0" * 64: tuple(RUBRICS)}, time.time())
    judge.store.record_id(batch.number, "msgbatch_nobody_knows")
    lines: list[str] = []
    judge.prepare(answers(3), RUBRICS, lines.append)
    assert any("msgbatch_nobody_knows: the API no longer knows it" in line for line in lines)
    assert judge.store.open_batches() == []
    assert server.billed.total() == 12


def test_interrupted_results_are_not_counted_twice(claude: Claude, tmp_path: Path) -> None:
    server = claude(faults={"results_cut": 0.6, "malformed": 0.3})
    judge = ClaudeJudge(replace(SETTINGS, transport="batch"), tmp_path)
    bill = judge.prepare(answers(20), RUBRICS, lambda line: None)
    assert bill["calls_paid"] == server.billed.total()
    assert judge.store.totals()["dollars"] == pytest.approx(bill["spent_usd"])
