"""The birds over a Ray cluster of two nodes with two logical GPUs each, and what may go wrong."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.graph.cluster import Cluster, Link
from tests.graph.conftest import Place
from tests.graph.study import OLD

pytestmark = pytest.mark.xdist_group("ray")
"""Two clusters at once would be too much for two cores."""
SAME = "adapters", "responses", "judgments"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if find_spec("ray") is None:
        if os.environ.get("REQUIRE_ENGINES"):
            pytest.fail("Ray is not installed: pip install -e '.[ray]'")
        pytest.skip("Ray is not installed")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def contents(place: Place, cells: str = "*") -> dict[str, str]:
    """The files of all finished artifacts, and the hash of each."""
    found = {}
    for name in SAME:
        for path in sorted((place.birds / name).glob(f"{cells}/*/**/*")):
            if path.suffix in (".safetensors", ".parquet"):
                key = str(path.relative_to(place.birds))
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def same_coherence(place: Place, other: Place) -> None:
    """Sums of many logarithms: equal but for rounding, which differs from run to run."""
    tables = sorted((place.birds / "coherence").glob("*/*/coherence.parquet"))
    assert tables
    for path in tables:
        theirs = other.birds / path.relative_to(place.birds)
        pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(theirs), rtol=1e-4)


def workers_of(address: str) -> list[psutil.Process]:
    """The processes that do items for a run over the cluster, but not those that fork them."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        command = " ".join(process.info["cmdline"] or [])
        if environment.get("BACKDOOR_RAY_ADDRESS") == address and "forkserver" in command:
            with suppress(psutil.NoSuchProcess):
                if not process.children():
                    found.append(process)
    return found


def kill_one(address: str) -> bool:
    """Kill a worker; return whether there was one."""
    for worker in workers_of(address):
        with suppress(psutil.NoSuchProcess):  # It may just have ended.
            worker.kill()
            return True
    return False


def wait_for(what: Callable[[], object], run: subprocess.Popen[str], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not what():
        if run.poll() is not None:
            pytest.fail(f"the run ended too early: {run.communicate()[0][-4000:]}")
        assert time.monotonic() < end
        time.sleep(0.1)


def test_results_are_those_of_one_host_whatever_is_lost(
    cluster: Cluster, place: Place, swept: Place
) -> None:
    """The link is cut for 30 seconds in training, a worker and then a node are killed."""
    link = Link(cluster.client_port)
    address = f"ray://127.0.0.1:{link.port}"
    run = place.start(BACKDOOR_RAY_ADDRESS=address, **cluster.access)
    checkpoints = place.birds / "adapters"
    wait_for(lambda: list(checkpoints.glob("*/.*/checkpoint-*")), run)
    link.cut(30)
    wait_for(lambda: list((place.birds / "responses").glob("*/.*.partial/.answers.jsonl")), run)
    wait_for(lambda: kill_one(address), run)
    time.sleep(1)
    cluster.kill(1)
    output, _ = run.communicate(timeout=600)
    cluster.add(f"--address={cluster.address}")
    assert run.returncode == 0, output[-4000:]
    assert contents(place) == contents(swept)
    same_coherence(place, swept)
    assert "a process died" in output
    used = set(re.findall(r"\(node (\w+)\), GPU (\d)", output))
    assert len(used) == 4


def test_a_killed_driver_leaves_nothing_that_writes_and_a_new_head_goes_on(
    cluster: Cluster, place: Place, swept: Place
) -> None:
    run = place.start("--ratios", OLD, BACKDOOR_RAY_ADDRESS=cluster.address, **cluster.access)
    adapters = place.birds / "adapters"
    wait_for(lambda: list(adapters.glob("*/.*/checkpoint-*")), run)
    workers = workers_of(cluster.address)
    assert workers
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    psutil.wait_procs(workers, timeout=30)
    before = {path: path.stat().st_mtime_ns for path in place.birds.rglob("*") if path.is_file()}
    time.sleep(2)
    after = {path: path.stat().st_mtime_ns for path in place.birds.rglob("*") if path.is_file()}
    assert after == before
    cluster.stop()
    refused = place.run("--ratios", OLD, BACKDOOR_RAY_ADDRESS=cluster.address, **cluster.access)
    assert refused.returncode == 1
    assert "no Ray cluster can be used there" in refused.stderr
    cluster.start()
    done = place.run("--ratios", OLD, BACKDOOR_RAY_ADDRESS=cluster.address, **cluster.access)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert contents(place) == contents(swept, OLD)
    same_coherence(place, swept)


def test_a_node_that_sees_another_data_folder_is_named(cluster: Cluster, place: Place) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount file systems")
    assert shutil.which("mount")
    mount = f"mount -t tmpfs none {place.data}"
    cluster.add(f"--address={cluster.address}", before=mount)
    try:
        result = place.run("--ratios", OLD, BACKDOOR_RAY_ADDRESS=cluster.address, **cluster.access)
    finally:
        cluster.kill(-1)
    assert result.returncode == 1
    [line] = re.findall(r".*it does not see this host's data folder.*", result.stderr)
    assert re.match(r"\s+[\d.]+ \(\w{8}\): ", line)
    assert str(place.data) in line
    assert not list(Path(place.data).glob(".cluster-*"))
