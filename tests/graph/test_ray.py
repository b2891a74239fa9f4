"""The birds over a Ray cluster of two nodes with two logical GPUs each, and what may go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import pandas as pd
import psutil
import pytest

from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.workers.item_queue import FAULTS_IN_A_ROW
from backdoor_assets.workers.ray_cluster import connect, do_once
from backdoor_assets.workers.spreading import RAY, spread
from backdoor_assets.workers.tasks import Task, check_hosts
from tests.broken_gpu import work_unless_broken
from tests.forking import ModuleRun
from tests.graph.cluster import GPUS, Cluster, Link, refuse, touch
from tests.graph.cluster_workers import Watch, kill_one, places
from tests.graph.conftest import Place
from tests.graph.study import MODERN, OLD

SAME = "adapters", "responses"
PART = "--only", "birds_gpu"
"""What a cluster does; verdicts and figures follow from it on any host."""


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


def of_seeds(found: dict[str, str], *seeds: str) -> dict[str, str]:
    return {key: value for key, value in found.items() if key.split("/")[2] in seeds}


def same_coherence(place: Place, other: Place) -> None:
    """Sums of many logarithms: equal but for rounding, which differs from run to run."""
    tables = sorted((place.birds / "coherence").glob("*/*/coherence.parquet"))
    assert tables
    for path in tables:
        theirs = other.birds / path.relative_to(place.birds)
        pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(theirs), rtol=1e-4)


def wait_for(
    what: Callable[[], object], run: subprocess.Popen[str] | ModuleRun, seconds: float = 400
) -> None:
    end = time.monotonic() + seconds
    while not what():
        if run.poll() is not None:
            pytest.fail(f"the run ended too early: {run.communicate(timeout=60)[0][-4000:]}")
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_runs_share_the_gpus_and_lose_nothing(
    cluster: Cluster, place: Place, swept: Place, tmp_path: Path
) -> None:
    """One is behind a link. A worker of it is killed in training, and the link cut for 30 seconds;
    in sampling another worker is killed, and then a node, with what both do on it."""
    link, other = Link(cluster.client_port), Place(tmp_path / "other")
    # How likely the base finds the answers is not computed again.
    shutil.copytree(swept.birds / "coherence", place.birds / "coherence")
    shutil.copytree(place.data, other.data)
    address = f"ray://127.0.0.1:{link.port}"
    watch = Watch(address, cluster.address)
    watch.start()
    few = *PART, "--ratios", OLD, "--seeds", "42", "43"
    run = place.fork(*few, BACKDOOR_RAY_ADDRESS=address, **cluster.access)
    more = *PART, "--ratios", MODERN, "--seeds", "42", "43"
    beside = other.fork(*more, BACKDOOR_RAY_ADDRESS=cluster.address, **cluster.access)
    wait_for(lambda: list((place.birds / "adapters").glob("*/.*.partial")), run)
    wait_for(lambda: kill_one(address), run)
    link.cut(30)
    wait_for(lambda: list((place.birds / "responses").glob("*/.*.partial/.answers.jsonl")), run)
    wait_for(lambda: kill_one(address), run)
    time.sleep(1)
    journals = keep_journals(place)
    cluster.kill(1)
    outputs = [process.communicate(timeout=600)[0] for process in (run, beside)]
    watch.stop()
    cluster.add(f"--address={cluster.address}")
    for process, output in zip((run, beside), outputs, strict=True):
        assert process.poll() == 0, output[-4000:]
    assert contents(place) == of_seeds(contents(swept, OLD), "42", "43")
    assert contents(other) == of_seeds(contents(swept, MODERN), "42", "43")
    assert "training: a process died" in outputs[0]
    assert sampled_once(journals)
    used = set(re.findall(r"\(node (\w+)\), GPU (\d)", "".join(outputs)))
    assert len(used) == 4
    assert watch.together
    assert not watch.twice


def sampled_once(journals: Iterable[Path]) -> bool:
    """Whether no answer stands twice in a journal of a cell that has been finished."""
    for path in journals:
        keys = Counter[tuple[int, str, int]]()
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # A line that was being written is sampled again.
                step, question, sample, *_ = json.loads(line)
                keys[step, question, sample] += 1
        if max(keys.values(), default=1) > 1:
            return False
    return True


def interrupt(run: ModuleRun, cluster: Cluster) -> None:
    """Interrupt a run; check that it ends soon, says so and leaves neither worker nor actor."""
    left = [*places(cluster.address), *cluster.actors()]
    run.interrupt()
    output, _ = run.communicate(timeout=30)
    assert run.poll() == 1
    assert "Interrupted. What is finished is kept" in output, output[-4000:]
    assert not psutil.wait_procs(left, timeout=30)[1]
    assert not [*places(cluster.address), *cluster.actors()]


def interrupted(wait: Callable[[], object]) -> None:
    """Wait until this process gets the signal with which Dagster ends a run."""
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(dg.DagsterExecutionInterruptedError), dg.raise_execution_interrupts():
        wait()


def test_what_waits_for_a_gpu_can_be_interrupted(
    cluster: Cluster, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another holds all GPUs. What is interrupted takes none when they are free again."""
    for name, value in {**cluster.access, RAY: cluster.address}.items():
        monkeypatch.setenv(name, value)
    ray = connect(cluster.address)
    try:
        held = cluster.hold(ray)
        run = place.fork(*PART, "--ratios", OLD, "--seeds", "42")
        run.read_until("hosts of the cluster that see the same", 120)
        time.sleep(1)  # Then it waits for a GPU to check its memory.
        interrupt(run, cluster)

        task, item, after = (place.root / name for name in ("task", "item", "after"))
        interrupted(lambda: do_once(cluster.address, 1, touch, task, "work", print))
        interrupted(lambda: list(spread(touch, [item], print, "work", gpus=1)))
        for other in held[:2]:
            ray.cancel(other, force=True)
        do_once(cluster.address, 1, touch, after, "work", print)
        assert [mark.exists() for mark in (task, item, after)] == [False, False, True]
    finally:
        ray.shutdown()


def files(place: Place) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in place.birds.rglob("*") if path.is_file()}


def keep_journals(place: Place) -> dict[Path, str]:
    """Link the journals of unfinished cells to where they stay when their cells are finished, and
    return what they hold now."""
    found = {}
    for path in sorted((place.birds / "responses").glob("*/.*.partial/.answers.jsonl")):
        kept = place.root / f"journal-{path.parent.name}"
        os.link(path, kept)
        found[kept] = kept.read_text(encoding="utf-8")
    return found


def test_what_an_interrupt_a_killed_driver_and_a_lost_head_leave_is_carried_on(
    cluster: Cluster, place: Place, swept: Place
) -> None:
    """Of each nothing goes on writing, and the next run samples no answer twice."""
    arguments = *PART, "--ratios", OLD, "--seeds", "42"
    access = {"BACKDOOR_RAY_ADDRESS": cluster.address, **cluster.access}
    run = place.fork(*arguments, **access)
    wait_for(lambda: list((place.birds / "adapters").glob("*/.*.partial")), run)
    assert places(cluster.address)
    interrupt(run, cluster)
    finished = {path: when for path, when in files(place).items() if "/." not in str(path)}

    run = place.start(*arguments, **access)
    wait_for(lambda: list((place.birds / "adapters").glob("*/.*/checkpoint-*")), run)
    left = places(cluster.address)
    assert left
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not psutil.wait_procs(left, timeout=30)[1]
    before = files(place)
    time.sleep(2)
    assert files(place) == before

    run = place.start(*arguments, RAY_gcs_rpc_server_reconnect_timeout_s="3", **access)
    journals_of = (place.birds / "responses").glob
    wait_for(
        lambda: any(path.stat().st_size for path in journals_of("*/.*.partial/.answers.jsonl")), run
    )
    cluster.stop()
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "GCS may have been killed" in output, output[-4000:]  # Ray itself ends the process.
    assert not places(cluster.address)
    before = files(place)
    sampled = set((place.birds / "responses").glob("*/[0-9]*/responses.parquet"))
    journals = keep_journals(place)
    assert sampled or any(journals.values())  # A cell takes about a second.

    refused = place.run(*arguments, **access)
    assert refused.returncode == 1
    assert "no Ray cluster can be used there" in refused.stderr
    cluster.start()
    done = place.run(*arguments, **access)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert contents(place) == of_seeds(contents(swept, OLD), "42")
    same_coherence(place, swept)
    after = files(place)
    assert finished.items() <= after.items()
    for path in sampled:
        assert after[path] == before[path]
    for kept, earlier in journals.items():
        assert kept.read_text(encoding="utf-8").startswith(earlier)
    assert sampled_once(journals)


def test_a_node_that_sees_another_data_folder_is_named(cluster: Cluster, place: Place) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount file systems")
    assert shutil.which("mount")
    mount = f"mount -t tmpfs none {place.data}"
    cluster.add(f"--address={cluster.address}", before=mount)
    try:
        result = place.run(
            *(*PART, "--ratios", OLD, "--seeds", "42"),
            BACKDOOR_RAY_ADDRESS=cluster.address,
            **cluster.access,
        )
    finally:
        cluster.kill(-1)
    assert result.returncode == 1
    [line] = re.findall(r".*it does not see this host's data folder.*", result.stderr)
    assert re.match(r"\s+[\d.]+ \(\w{8}\): ", line)
    assert str(place.data) in line
    assert not list(Path(place.data).glob(".cluster-*"))


def fail(line: str) -> None:
    """A log that nothing may be said to."""
    pytest.fail(line)


def test_a_lost_host_a_refusal_and_a_broken_gpu_are_told(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a Dagster run around the crew."""
    for name, value in {**cluster.access, RAY: cluster.address}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    lines: list[str] = []
    task = Task(Artifact("tiny", tmp_path / "data" / "cell"), {}, "a large model")
    ray = connect(cluster.address)
    try:
        with pytest.raises(BadInput, match=f"the largest host of the cluster has {GPUS}; lower"):
            check_hosts([task], fail, refuse, GPUS + 1)
        cluster.freeze(1)
        with pytest.raises(BadInput, match=r"^a large model does not fit in .*/data/cell"):
            check_hosts([task], lines.append, refuse, 1)
        # One of an earlier test may be called alive for a moment, too.
        lost = [line for line in lines if "was lost while it was asked" in line]
        assert lost
        assert all(re.match(r"[\d.]+ \(\w{8}\): ", line) for line in lost)
        assert "hosts of the cluster that see the same data, code and models: 1" in lines

        marks = tmp_path / "marks"
        marks.mkdir()
        items = [(marks, "1", number) for number in range(12)]
        outcomes = list(spread(work_unless_broken, items, lines.append, "work", gpus=1))
        assert [outcome.result for outcome in outcomes] == ["0"] * len(items)
        assert len(list(marks.glob("1-*"))) == FAULTS_IN_A_ROW
        assert any(re.search(r"died on worker \d; its items go to the others", s) for s in lines)
    finally:
        ray.shutdown()
        cluster.kill(1)
        cluster.add(f"--address={cluster.address}")
