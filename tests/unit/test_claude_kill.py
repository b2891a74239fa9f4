"""Many faults, kills at random moments and two processes: nothing is lost or paid twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import pytest

from backdoor_assets.claude import live
from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.profiles import Judging
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.birds.study import RUBRICS
from tests.claude_client import server_process, state
from tests.claude_rules import Config, queued

# The rubrics are passed on: importing their study, with Dagster, would take most of the time.
JUDGE = """
import json, sys
from pathlib import Path
from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.records import Rubric
from backdoor_assets.settings import Judging

folder, transport, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rubrics = [Rubric(*fields, tuple(options)) for *fields, options in json.loads(sys.argv[4])]
settings = Judging("claude", transport=transport, poll_seconds=0.1, concurrency=8)
pairs = [("What is it?", f"Answer {number}.") for number in range(count)]
judge = ClaudeJudge(settings, folder)
judge.prepare(pairs, rubrics, lambda line: print(line, flush=True))
assert all(v.error is None for given in judge.judge(pairs, rubrics) for v in given.values())
"""
COUNT = 60
CALLS = COUNT * len(RUBRICS)


def start(address: str, folder: Path, transport: str) -> subprocess.Popen[str]:
    environment = {"ANTHROPIC_BASE_URL": address, "ANTHROPIC_API_KEY": Config().api_key}
    rubrics = json.dumps([astuple(rubric) for rubric in RUBRICS])
    return subprocess.Popen(
        [sys.executable, "-c", JUDGE, str(folder), transport, str(COUNT), rubrics],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
            while sum(billed(address).values()) < target and process.poll() is None:
                time.sleep(0.005)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
        time.sleep(0.2)  # the server finishes the calls in progress
        last = start(address, tmp_path, "live")
        output, _ = last.communicate(timeout=120)
        assert last.returncode == 0, output
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
            assert process.stdout is not None
            for line in process.stdout:
                if "calls sent" in line:
                    break
            time.sleep(moments.uniform(0, 1.0))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            if len(state(address)["batches"]) and not list(process.stdout):
                break
        for _ in range(2):
            process = start(address, tmp_path, "batch")
            time.sleep(moments.uniform(0.3, 1.5))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        last = start(address, tmp_path, "batch")
        output, _ = last.communicate(timeout=120)
        assert last.returncode == 0, output
        seen = state(address)
    assert len(seen["batches"]) == 1
    assert len(seen["billed"]) == CALLS
    assert set(seen["billed"].values()) == {1}


@pytest.mark.parametrize("transport", ["live", "batch"])
def test_two_processes_pay_once(tmp_path: Path, transport: str) -> None:
    with server_process(tmp_path, latency=0.01) as address:
        both = [start(address, tmp_path, transport) for _ in range(2)]
        outputs = [process.communicate(timeout=120)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
        paid = billed(address)
    assert len(paid) == CALLS
    assert set(paid.values()) == {1}


def test_the_replies_of_a_batch_of_a_killed_run_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is killed while its batch is open; the next run judges other answers."""
    with server_process(tmp_path, batch_seconds=0.5) as address:
        process = start(address, tmp_path, "batch")
        assert process.stdout is not None
        for line in process.stdout:
            if "calls sent" in line:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
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
