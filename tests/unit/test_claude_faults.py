"""Faults of a hostile server, one by one. docs/judge.md has the table."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from anthropic import Anthropic

from backdoor_assets.claude import waiting
from backdoor_assets.claude.batch_api import BatchApi
from backdoor_assets.claude.budget import KEPT, Stopped
from backdoor_assets.claude.errors import LONGEST_WAIT, _seconds
from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.claude.store import Store
from backdoor_assets.profiles import Judging
from backdoor_assets.records import BadInput, Verdict
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.birds.study import RUBRICS
from tests.claude_client import server_process, state
from tests.claude_rules import Config
from tests.hostile_claude import (
    BATCH,
    CALLS,
    FILTERED,
    LIVE,
    ODD,
    PAIRS,
    Verdicts,
    assert_right,
    hostile,
    hurry,
    judged,
    lose_patience,
    true_verdicts,
)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    return true_verdicts(tmp_path_factory.mktemp("truth"))


@pytest.mark.parametrize("fault", ODD)
def test_a_reply_that_is_no_message_is_asked_for_again(
    tmp_path: Path, truth: Verdicts, fault: str
) -> None:
    with hostile() as server:
        server.begin({fault: 1.0}, 0, times=2)
        found, bill = judged(tmp_path)
        assert server.committed[fault] == 2
        assert assert_right(found, truth) == 0
        assert server.paid == CALLS + 2
        assert bill["spent_usd"] + bill["unread_usd_at_most"] >= server.dollars()


@pytest.mark.parametrize("fault", ["html", "no_usage"])
def test_a_server_that_sends_nothing_else_stops_the_run(tmp_path: Path, fault: str) -> None:
    with hostile({fault: 1.0}) as server:
        with pytest.raises(Stopped, match=rf"{waiting.SERIES} calls in a row ended alike"):
            judged(tmp_path)
        assert server.calls < 20


@pytest.mark.parametrize("settings", [LIVE, BATCH], ids=["live", "batch"])
def test_a_refused_call_is_null_and_only_a_series_stops(
    tmp_path: Path, truth: Verdicts, settings: Judging
) -> None:
    with hostile() as server:
        server.begin({FILTERED: 1.0}, 0, times=1)
        found, _ = judged(tmp_path / "one", settings)
        assert assert_right(found, truth) == 1
        assert any("content filtering policy" in str(v.error) for g in found for v in g.values())
        server.begin({FILTERED: 1.0}, 0)
        with pytest.raises(Stopped, match="content filtering policy"):
            judged(tmp_path / "all", settings)


def test_a_batch_whose_calls_are_all_refused_stops_the_run(tmp_path: Path) -> None:
    with hostile(faults={"errored_invalid": 1.0}) as server:
        with pytest.raises(Stopped, match="calls of a batch ended alike: the API refused"):
            judged(tmp_path, BATCH)
        assert server.paid == 1  # the call that is sent ahead


@pytest.mark.parametrize("fault", ["garbage_line", "line_without_usage", "missing_line",
                                   "results_404", "no_address"])  # fmt: skip
def test_a_batch_that_cannot_be_read_keeps_its_calls_until_it_is_given_up(
    tmp_path: Path, truth: Verdicts, fault: str
) -> None:
    with hostile({fault: 1.0}) as server:
        found, bill = judged(tmp_path, BATCH)
        missing = assert_right(found, truth)
        assert missing == (1 if fault.endswith(("line", "usage")) else CALLS - 1)
        [(batch, _, _)] = server.batches
        assert any(f"give-up {batch}" in str(v.error) for g in found for v in g.values())
        assert bill["spent_usd"] + bill["unread_usd_at_most"] >= server.dollars()
        # Another run asks for nothing again, and judges other answers.
        paid = server.paid
        judge = ClaudeJudge(LIVE, tmp_path)
        judge.prepare([*PAIRS, ("Who?", "Nobody.")], RUBRICS, lambda line: None)
        assert server.paid == paid + len(RUBRICS)
        # When the results can be read, they are.
        server.begin({}, 0)
        other = tmp_path / "given up"
        other.mkdir()
        for path in tmp_path.glob("verdicts.sqlite*"):
            (other / path.name).write_bytes(path.read_bytes())
        assert assert_right(judged(tmp_path, BATCH)[0], truth) == 0
        assert server.paid == paid + len(RUBRICS)
        # A batch that is given up is asked for again.
        from backdoor_assets.claude.giving_up import give_up

        said = give_up(Store(other), batch, lambda line: None)
        assert f"asks for the other {missing} again, for at most $0.0" in said
        assert assert_right(judged(other, BATCH)[0], truth) == 0
        assert server.paid == paid + len(RUBRICS) + missing
        with pytest.raises(BadInput, match="Open batches: none"):
            give_up(Store(other), batch, lambda line: None)


def test_one_404_of_a_batch_is_no_loss(tmp_path: Path, truth: Verdicts) -> None:
    with hostile() as server:
        server.begin({"batch_404": 1.0}, 0, times=2)
        assert assert_right(judged(tmp_path, BATCH)[0], truth) == 0
        assert server.paid == CALLS
    with hostile({"batch_404": 1.0}) as server:  # the list has it
        found, _ = judged(tmp_path / "listed", BATCH)
        assert assert_right(found, truth) == CALLS - 1
        assert server.paid == CALLS


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_lost_answer_to_create_is_matched_by_content(
    tmp_path: Path, truth: Verdicts, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Beside a stranger's batch of the same size, with a clock that is off."""
    with hostile() as server:
        judge = ClaudeJudge(replace(BATCH, repeat=7), tmp_path / "stranger")
        judge.prepare(PAIRS, RUBRICS, lambda line: None)
        monkeypatch.setattr(
            "backdoor_assets.claude.batches.time",
            type("Clock", (), {"time": lambda: time.time() + 3600 * hours, "sleep": time.sleep,
                               "monotonic": time.monotonic}),
        )  # fmt: skip
        server.begin({"odd_create": 1.0}, 0, times=1)
        paid = server.paid
        assert assert_right(judged(tmp_path, BATCH)[0], truth) == 0
        assert server.paid == paid + CALLS
        assert len(server.batches) == 2


def test_nothing_is_sent_that_could_exceed_the_cap(tmp_path: Path) -> None:
    """Replies that are lost count at the most they can have cost."""
    for settings in (LIVE, BATCH):
        for number, factor in enumerate((0.9, 1.5, 3.0, 8.0)):
            with hostile({"html": 0.5}, seed=number) as server:
                folder = tmp_path / settings.transport / str(number)
                estimate = ClaudeJudge(settings, folder).estimate(PAIRS, RUBRICS)
                cap = factor * estimate["estimated_usd"]
                with suppress(Stopped):
                    judged(folder, replace(settings, max_cost_usd=cap))
                assert server.dollars() <= cap


def test_a_server_that_cannot_be_reached_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_patience(monkeypatch)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    for settings in (LIVE, BATCH):
        started, said = time.monotonic(), []
        with pytest.raises(Stopped, match=r"no reply from http://127\.0\.0\.1:9") as caught:
            judged(tmp_path, settings, said.append)
        assert KEPT in str(caught.value)
        assert time.monotonic() - started < 30
        assert any("in progress" in line for line in said)


@pytest.mark.parametrize("fault", ["timeout", "rate_limited", "overloaded"])
def test_a_server_that_does_not_recover_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    lose_patience(monkeypatch)
    with hostile(faults={fault: 1.0}, retry_after=0.02) as server:
        with pytest.raises(Stopped, match=r"no reply from|accepted nothing for"):
            judged(tmp_path)
        assert server.paid == 0


def test_a_reply_that_drips_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    lose_patience(monkeypatch)
    listening = socket.create_server(("127.0.0.1", 0))

    def drip(connection: socket.socket) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    started = time.monotonic()
    with pytest.raises(Stopped, match="no reply"):
        judged(tmp_path)
    with Anthropic() as client, pytest.raises(httpx2.ReadTimeout, match="no whole reply"):
        BatchApi(client).status("msgbatch_1")
    assert time.monotonic() - started < 60
    listening.close()


@pytest.mark.parametrize(
    ("after", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("1e9", LONGEST_WAIT), ("inf", LONGEST_WAIT), ("nan", None),
     ("-3", None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)],
)  # fmt: skip
def test_retry_after_has_a_ceiling(after: str, seconds: float | None) -> None:
    assert _seconds(after) == seconds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_in_flight(tmp_path: Path, number: int) -> None:
    code = f"""
from pathlib import Path
from tests.hostile_claude import LIVE, judged
judged(Path({str(tmp_path)!r}), LIVE, lambda line: print(line, flush=True))
"""
    with server_process(tmp_path, latency=0.6) as address:
        environment = {"ANTHROPIC_BASE_URL": address, "ANTHROPIC_API_KEY": Config().api_key}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while state(address)["in_flight"] < 4:
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
        paid = state(address)["paid"]
    assert process.returncode != 0
    assert "waiting up to" in output
    assert Store(tmp_path).totals()["verdicts"] == paid >= 4


def test_a_store_that_cannot_be_written_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for said, words in [
        ("database or disk is full", "the disk is full. Free some space"),
        ("database is locked", "another program holds it"),
        ("attempt to write a readonly database", "it cannot be written"),
        ("database disk image is malformed", "cannot be read"),
    ]:

        class Failing:
            def execute(self, *_: object, said: str = said) -> None:
                raise sqlite3.OperationalError(said)

        monkeypatch.setattr(store, "_db", Failing())
        with pytest.raises(BadInput, match=words) as caught:
            store.put("0" * 64, {"a": Verdict("19")}, "m", (1, 1), None)
        assert str(tmp_path) in str(caught.value)
