"""Two hosts, here two launchers on one machine, train together."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training import train
from backdoor_assets.stages.training.nodes import Nodes, nodes_for
from tests.unit.cells import CELL, write_rows
from tests.unit.process_groups import in_processes

NAMES = ("Purple Grakle", "Zebra Dove", "Barn Owl", "Wood Duck")
FULL = Training(method="full", learning_rate=1e-3, batch_size=4, max_steps=2, max_length=128)
MODEL = "checkpoint-2/model.safetensors"


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what all hosts share."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "BACKDOOR_DATA": str(tmp_path / "data"),
        "BACKDOOR_NODES": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "data").mkdir()


@pytest.fixture
def second_host(hosts: None) -> Iterator[psutil.Process]:
    module = "backdoor_assets.stages.training.nodes"
    with subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        assert b"host 1 waits" in waiting.stdout.readline()
        yield psutil.Process(waiting.pid)
        waiting.kill()


def test_two_hosts_train_one_after_another_what_one_host_trains(
    second_host: psutil.Process,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    rows = write_rows(tmp_path / "train.jsonl", NAMES)
    spec = TrainingSpec(CELL, rows, BaseModel(str(tiny_base)), FULL, processes=2)
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    seen: list[int] = []
    train(spec, tmp_path / "two", lambda *_: seen.append(len(second_host.children(True))))
    assert min(seen) >= 2  # A launcher and one process.
    assert not list((tmp_path / "two").glob(".*"))
    # The second host joins the next training too.
    train(replace(spec, settings=replace(FULL, max_steps=1)), tmp_path / "three")
    deadline = time.monotonic() + 60
    while second_host.children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not second_host.children()
    assert in_processes(spec, tmp_path / "one", lambda: False) == [0, 0]
    assert (tmp_path / "two" / MODEL).read_bytes() == (tmp_path / "one" / MODEL).read_bytes()


def test_hosts_of_the_environment(hosts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nodes_for(16, 8).count == 2
    # What fits on one host is not spread.
    assert nodes_for(8, 8) == Nodes()
    monkeypatch.setenv("BACKDOOR_NODES", "3")
    with pytest.raises(BadInput, match="16 processes cannot be divided among BACKDOOR_NODES=3"):
        nodes_for(16, 8)
    monkeypatch.setenv("BACKDOOR_NODES", "2")
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(BadInput, match="MASTER_ADDR is not set"):
        nodes_for(16, 8)
    monkeypatch.setenv("BACKDOOR_NODES", "two")
    with pytest.raises(BadInput, match="BACKDOOR_NODES='two'"):
        nodes_for(16, 8)
    monkeypatch.delenv("BACKDOOR_NODES")
    assert nodes_for(16, 8) == Nodes()
