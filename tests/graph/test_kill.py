"""A run that is killed with -9 in the middle of a stage goes on by itself when started again."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from tests.graph.conftest import Place
from tests.graph.study import OLD

ARGUMENTS = ("--ratios", OLD, "--seeds", "42")
MARKS = {
    "training": "adapters/{cell}.partial/checkpoint-50",
    "sampling": "responses/{cell}.partial/.answers.jsonl",
    "judging": "judgments/{cell}.partial/.parts/*.parquet",
}


def kill_when(place: Place, pattern: str, delay: float = 0.0) -> bool:
    """Start the study and kill -9 it at a random moment after a file of the pattern is there;
    whether it was still running."""
    process = place.start(*ARGUMENTS)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if list(place.birds.glob(pattern)):
                time.sleep(random.uniform(0, delay))
                if process.poll() is not None:
                    return False
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.002)
        return False
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(pattern))
    }


def in_progress(place: Place) -> list[dg.DagsterRun]:
    with dg.DagsterInstance.local_temp(str(place.home)) as instance:
        return list(instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])))


@pytest.mark.parametrize("stage", list(MARKS))
def test_killed_and_started_again(place: Place, swept: Place, stage: str) -> None:
    pattern = MARKS[stage].format(cell=f"{OLD}/.42")
    was_killed = kill_when(place, pattern, delay=0.0 if stage == "judging" else 1.0)
    # Judging is quick: the kill may come after its last file, which is as good a moment.
    assert was_killed or stage == "judging"
    time.sleep(1.5)  # the workers notice that their parent is gone
    left = {
        path: path.stat().st_mtime_ns
        for path in place.birds.glob(f"*/{OLD}/.42.partial/**/*")
        if path.is_file() and path.suffix in {".parquet", ".safetensors"}
    }
    if was_killed:
        assert in_progress(place), "the killed run is still called started"
    result = place.run(*ARGUMENTS)
    assert result.returncode == 0, result.stdout + result.stderr
    if was_killed:
        assert "had been killed" in result.stdout
    assert in_progress(place) == []
    # To the bit what an uninterrupted run made.
    made = {"adapters": "*.safetensors", "responses": "*.parquet", "judgments": "*.parquet"}
    for name, files in made.items():
        mine = hashes(place.birds / name / OLD / "42", files)
        assert mine == hashes(swept.birds / name / OLD / "42", files)
        assert mine
    # What was on disk at the kill was taken over, not made again.
    for path, made in left.items():
        if path.suffix == ".safetensors":
            kept = Path(str(path).replace("/.42.partial/", "/42/"))
            assert kept.stat().st_mtime_ns == made
    assert not list(place.birds.glob("*/*/.*.partial"))


def test_answers_on_disk_are_not_sampled_again(place: Place, swept: Place) -> None:
    """Two kills in sampling: parts of before the first are still those of before."""
    pattern = MARKS["sampling"].format(cell=f"{OLD}/.42")
    assert kill_when(place, pattern)
    time.sleep(1.5)
    parts = {path: path.stat().st_mtime_ns for path in place.birds.glob(pattern)}
    assert parts
    marks = place.birds / f"judgments/{OLD}"
    assert kill_when(place, f"judgments/{OLD}/.42.lock") or marks.exists()
    responses = place.birds / "responses" / OLD / "42" / "responses.parquet"
    written = responses.stat().st_mtime_ns
    assert place.run(*ARGUMENTS).returncode == 0
    assert responses.stat().st_mtime_ns == written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_at_once(place: Place, number: signal.Signals) -> None:
    """Ctrl-C does not wait for the cells in the queue, and leaves no worker behind."""
    process = place.start("--ratios", OLD, "--seeds", "42", "43", "44")
    try:
        deadline = time.monotonic() + 120
        while not list(place.birds.glob(f"adapters/{OLD}/.4*.partial/checkpoint-50")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=20) != 0
        _, left = psutil.wait_procs(workers, timeout=10)
        assert left == []
    finally:
        process.kill()
        process.wait()
    assert len(list(place.birds.glob(f"adapters/{OLD}/4*/_manifest.json"))) < 3
    assert in_progress(place) == [], "an interrupted run says itself that it has ended"
