"""Message Batches of the fake Claude API, and the fake API as a separate process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from tests.claude_client import (
    ask,
    call,
    client,
    finished,
    requests,
    text,
)
from tests.claude_rules import digest
from tests.claude_server import Config, serve


def test_a_batch_is_created_polled_and_read() -> None:
    sent = [*requests(40), {"custom_id": "bad", "params": call(temperature=1)}]
    with serve(Config(batch_polls=2, batch_seconds=0.1)) as server, client(server) as claude:
        batch = claude.messages.batches.create(requests=sent)
        assert batch.processing_status == "in_progress"
        assert batch.request_counts.processing == 41
        ended = finished(claude, batch.id)
        assert (ended.request_counts.succeeded, ended.request_counts.errored) == (40, 1)
        results = list(claude.messages.batches.results(batch.id))
        assert results == list(claude.messages.batches.results(batch.id))
        ids = [result.custom_id for result in results]
        assert ids != [one["custom_id"] for one in sent]
        assert sorted(ids) == sorted(one["custom_id"] for one in sent)
        by_id: dict[str, Any] = {result.custom_id: result.result for result in results}
        assert by_id["bad"].error.error.type == "invalid_request_error"
        assert text(by_id["r7"].message) == text(ask(server, call("bird 7")))
        assert server.billed[digest(call("bird 7"))] == 2
        assert server.batches == [(batch.id, 41, 40)]
        assert server.outcomes["poll"] >= 3


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("errored_api", "errored"),
        ("errored_invalid", "errored"),
        ("expired", "expired"),
        ("canceled", "canceled"),
    ],
)
def test_requests_of_a_batch_that_fail_are_not_billed(fault: str, outcome: str) -> None:
    with serve(Config(faults={fault: 0.5})) as server, client(server) as claude:
        batch = finished(claude, claude.messages.batches.create(requests=requests(40)).id)
        results = [one.result.type for one in claude.messages.batches.results(batch.id)]
        assert set(results) == {"succeeded", outcome}
        assert getattr(batch.request_counts, outcome) == results.count(outcome)
        assert server.billed.total() == results.count("succeeded")


def test_an_expired_or_canceled_batch_is_billed_for_its_finished_requests() -> None:
    faults = {"expired_batch": 1.0}
    with serve(Config(faults=faults, seed=1)) as server, client(server) as claude:
        batch = finished(claude, claude.messages.batches.create(requests=requests(40)).id)
        assert 0 < batch.request_counts.expired == 40 - server.billed.total()
        server.configure(faults={}, batch_seconds=2)
        batch = claude.messages.batches.create(requests=requests(40))
        while server.batches[1][2] < 3:
            time.sleep(0.01)
        canceled = claude.messages.batches.cancel(batch.id)
        assert canceled.processing_status == "canceling"
        counts = finished(claude, batch.id).request_counts
        assert counts.succeeded == server.batches[1][2] >= 3
        assert counts.canceled == 40 - counts.succeeded > 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([], 400),
        (requests(6), 400),
        (requests(2) + requests(1), 400),
        ([{"custom_id": "a b", "params": call()}], 400),
        (requests(1, system="x" * 5000), 413),
    ],
)
def test_a_batch_that_the_api_would_refuse_is_refused(body: Any, status: int) -> None:
    with serve(Config(batch_requests=5, batch_bytes=4000)) as server, client(server) as claude:
        with pytest.raises(anthropic.APIStatusError) as raised:
            claude.messages.batches.create(requests=body)
        assert raised.value.status_code == status
        assert not server.batches


def test_a_batch_whose_creation_reply_was_lost_exists_and_is_billed() -> None:
    with serve(Config(faults={"create_cut": 1})) as server, client(server) as claude:
        for _ in range(3):
            with pytest.raises(anthropic.APIConnectionError):
                claude.messages.batches.create(requests=requests(2))
        newest = list(claude.messages.batches.list(limit=2))
        assert [batch.id for batch in newest] == [entry[0] for entry in server.batches][::-1]
        assert finished(claude, newest[0].id).request_counts.succeeded == 2
        assert server.outcomes["create_cut"] == 3


def test_faults_of_polls_and_results() -> None:
    with serve() as server, client(server) as claude:
        batches = claude.messages.batches
        batch = finished(claude, batches.create(requests=requests(50)).id)
        actions: dict[str, Callable[[], Any]] = {
            "create": lambda: batches.create(requests=requests(1)),
            "poll": lambda: batches.retrieve(batch.id),
            "list": lambda: batches.list(),
            "results": lambda: batches.results(batch.id),
        }
        for name, action in actions.items():
            server.configure(faults={f"{name}_error": 1})
            with pytest.raises(anthropic.InternalServerError):
                action()
            assert server.outcomes[f"{name}_error"] == 1
        server.configure(faults={"results_cut": 1})
        received = []
        with pytest.raises(httpx2.RemoteProtocolError):
            received.extend(iter(batches.results(batch.id)))
        server.configure(faults={})
        assert len(list(batches.results(batch.id))) == 50
        assert len(server.batches) == 1


def test_the_server_process_outlives_a_killed_client_and_bills_its_call(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    command = [sys.executable, "-m", "tests.claude_server", "--state", str(state)]
    config = json.dumps({"latency": 1.0})
    with subprocess.Popen(
        [*command, "--config", config], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        address = server.stdout.readline().strip()
        asks = (
            "import sys, anthropic, json\n"
            "claude = anthropic.Anthropic(base_url=sys.argv[1], api_key='sk-ant-test')\n"
            "claude.messages.create(**json.loads(sys.argv[2]))"
        )
        body = json.dumps(call())
        with subprocess.Popen([sys.executable, "-c", asks, address, body]) as killed:
            while not control(address, "state")["in_flight"]:
                time.sleep(0.02)
            killed.kill()
        while control(address, "state")["in_flight"]:
            time.sleep(0.02)
        control(address, "config", {"faults": {"error": 1}})
        with pytest.raises(urllib.error.HTTPError):
            control(address, "config", {"faults": {"no such": 1}})
        with (
            anthropic.Anthropic(base_url=address, api_key="sk-ant-test", max_retries=0) as claude,
            pytest.raises(anthropic.InternalServerError),
        ):
            claude.messages.create(**call())
        server.send_signal(signal.SIGTERM)
    kept = json.loads(state.read_text())
    assert kept["billed"] == {digest(call()): 1}
    assert kept["outcomes"]["ok"] == kept["outcomes"]["error"] == 1


def control(address: str, what: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    data = json.dumps(changes).encode() if changes else None
    with urllib.request.urlopen(f"{address}/control/{what}", data) as answer:
        return json.load(answer)
