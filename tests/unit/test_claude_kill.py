"""Many faults, kills at random moments and two processes: nothing is lost or paid twice."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Literal

import pytest

from backdoor_assets.claude import live
from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.profiles import Judging
from backdoor_assets.studies.birds.study import RUBRICS
from tests.claude_client import JudgeProcess, server_process, state
from tests.claude_rules import Config, queued

COUNT = 30
CALLS = COUNT * len(RUBRICS)


def start(address: str, folder: Path, transport: Literal["live", "batch"]) -> JudgeProcess:
    environment = {"ANTHROPIC_BASE_URL": address, "ANTHROPIC_API_KEY": Config().api_key}
    return JudgeProcess(environment, folder, transport, COUNT, RUBRICS)


def billed(address: str) -> dict[str, int]:
    return state(address)["billed"]


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_loses_only_the_live_calls_in_progress(tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    with server_process(tmp_path, latency=0.02, jitter=0.02) as address:
        kills = 0
        for _ in range(3):
            process = start(address, tmp_path, "live")
            before = sum(billed(address).values())
            target = before + moments.randint(1, CALLS // 4)
            while sum(billed(address).values()) < target and process.is_alive():
                time.sleep(0.005)
            kills += process.is_alive()
            process.kill()
        time.sleep(0.2)  # the server finishes the calls in progress
        code, output = start(address, tmp_path, "live").end()
        assert code == 0, output
        paid = billed(address)
    assert kills == 3
    assert len(paid) == CALLS
    # Each kill lost no more than the eight calls in progress.
    assert sum(paid.values()) - CALLS <= 8 * kills


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_with_a_known_id_is_never_sent_again(tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    with server_process(tmp_path, batch_seconds=1.5) as address:
        for _ in range(3):
            process = start(address, tmp_path, "batch")
            any("calls sent" in line for line in process.lines)
            time.sleep(moments.uniform(0, 1.0))
            process.kill()
            if len(state(address)["batches"]) and not process.lines.read():
                break
        for _ in range(2):
            process = start(address, tmp_path, "batch")
            time.sleep(moments.uniform(0.3, 1.5))
            process.kill()
        code, output = start(address, tmp_path, "batch").end()
        assert code == 0, output
        seen = state(address)
    assert len(seen["batches"]) == 1
    assert len(seen["billed"]) == CALLS
    assert set(seen["billed"].values()) == {1}


@pytest.mark.parametrize("transport", ["live", "batch"])
def test_two_processes_pay_once(tmp_path: Path, transport: Literal["live", "batch"]) -> None:
    with server_process(tmp_path, latency=0.01) as address:
        both = [start(address, tmp_path, transport) for _ in range(2)]
        ends = [process.end() for process in both]
        assert [code for code, _ in ends] == [0, 0], ends
        paid = billed(address)
    assert len(paid) == CALLS
    assert set(paid.values()) == {1}


def test_the_replies_of_a_batch_of_a_killed_run_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is killed while its batch is open; the next run judges other answers."""
    with server_process(tmp_path, batch_seconds=0.5) as address:
        process = start(address, tmp_path, "batch")
        any("calls sent" in line for line in process.lines)
        process.kill()
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", Config().api_key)
        judge = ClaudeJudge(Judging("claude", poll_seconds=0.1), tmp_path)
        judge.prepare([("Who?", "Nobody.")], RUBRICS, lambda line: None)
        paid = billed(address)
    assert judge.store.totals()["verdicts"] == CALLS + 4 == sum(paid.values())


def test_a_storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge 2,000 verdicts under a rate limit while 30 % of the calls fail.

    Each has a verdict or a reason; none is paid twice, except for replies that the network lost;
    the run takes at most 1.5 times the minimum under the limit. Time in which the judge or the
    server waited for other processes to give up the processor is not counted.
    """
    faults = {"overloaded": 0.08, "error": 0.06, "cut": 0.02, "cut_early": 0.04}
    faults |= {"malformed": 0.03, "wrong_option": 0.03, "refusal": 0.02, "max_tokens": 0.02}
    rate, burst = 120.0, 50
    limits = {"requests_per_second": rate, "burst": burst, "latency": 0.02}
    pairs = [("What is it?", f"Answer {number}.") for number in range(500)]
    monkeypatch.setattr(live, "backoff", lambda attempt: 0.1 * attempt)
    with server_process(tmp_path, faults=faults, **limits) as address:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", Config().api_key)
        judge = ClaudeJudge(Judging("claude", transport="live"), tmp_path)
        started = time.monotonic() - queued()
        bill = judge.prepare(pairs, RUBRICS, lambda line: None)
        seconds = time.monotonic() - queued() - started
        seen = state(address)
        seconds -= seen["queued"]
    verdicts = [v for given in judge.judge(pairs, RUBRICS) for v in given.values()]
    assert len(verdicts) == 2000
    assert all((v.value is None) != (v.error is None) for v in verdicts)
    assert sum(v.value is None for v in verdicts) < 0.1 * len(verdicts)
    outcomes, billed_calls = seen["outcomes"], seen["billed"].values()
    lost = outcomes["cut"]
    assert sum(billed_calls) == bill["calls_paid"] + lost
    # A call has a second reply only if the first had no verdict or was lost.
    no_verdict = sum(outcomes[fault] for fault in ("malformed", "wrong_option", "max_tokens"))
    assert sum(times - 1 for times in billed_calls) <= lost + no_verdict
    handled = sum(outcomes.values()) - outcomes.get("rate_limit", 0)
    bound = (handled - burst) / rate
    assert seconds < 1.5 * bound, f"{seconds:.1f} s, the rate limit allows {bound:.1f} s"
