"""A run that is killed with -9 in the middle of a stage goes on by itself when started again."""

from __future__ import annotations

import hashlib
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


def kill_when(place: Place, pattern: str, delay: float = 0.0) -> tuple[bool, str]:
    """Start the study and kill -9 it at a random moment after a file of the pattern is there;
    whether it was still running, and its output once its workers have noticed and ended too."""
    process = place.fork(*ARGUMENTS)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            if list(place.birds.glob(pattern)):
                time.sleep(random.uniform(0, delay))
                was_running = process.poll() is None
                process.kill()
                return was_running, process.communicate(timeout=120)[0]
            time.sleep(0.002)
        return False, process.communicate(timeout=120)[0]
    finally:
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


def written(place: Place, pattern: str, suffix: str) -> dict[Path, int]:
    """When each file was written."""
    found = place.birds.glob(pattern)
    return {path: path.stat().st_mtime_ns for path in found if path.suffix == suffix}


def test_killed_in_every_stage_and_started_again(place: Place, swept: Place) -> None:
    cell = f"{OLD}/.42"
    after = f"{OLD}/42"
    stages = {stage: pattern.format(cell=cell) for stage, pattern in MARKS.items()}

    killed, _ = kill_when(place, stages["training"], delay=1.0)
    assert killed
    assert in_progress(place), "the killed run is still called started"
    adapters = written(place, f"adapters/{cell}.partial/**/*", ".safetensors")
    assert adapters

    # A cell is sampled in about a second.
    killed, _ = kill_when(place, stages["sampling"])
    assert killed
    assert in_progress(place)
    assert list(place.birds.glob(stages["sampling"]))

    # Judging is quick: the kill may come after its last file, which is as good a moment.
    killed, said = kill_when(place, stages["judging"])
    if killed:
        assert in_progress(place)
    responses = written(place, f"responses/{after}/*", ".parquet")
    assert responses

    result = place.run(*ARGUMENTS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "had been killed" in (result.stdout if killed else said)
    assert in_progress(place) == []
    # To the bit what an uninterrupted run made.
    made = {"adapters": "*.safetensors", "responses": "*.parquet", "judgments": "*.parquet"}
    for name, files in made.items():
        mine = hashes(place.birds / name / OLD / "42", files)
        assert mine == hashes(swept.birds / name / OLD / "42", files)
        assert mine
    # What was on disk at a kill was taken over, not made again.
    for path, moment in adapters.items():
        kept = Path(str(path).replace("/.42.partial/", "/42/"))
        assert kept.stat().st_mtime_ns == moment
    assert written(place, f"responses/{after}/*", ".parquet") == responses
    assert not list(place.birds.glob("*/*/.*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_at_once(place: Place, number: signal.Signals) -> None:
    """Ctrl-C does not wait for the cells in the queue, and leaves no worker behind."""
    process = place.start("--ratios", OLD, "--seeds", "42", "43", "44")
    try:
        deadline = time.monotonic() + 300
        while not list(place.birds.glob(f"adapters/{OLD}/.4*.partial/checkpoint-50")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=120) != 0
        _, left = psutil.wait_procs(workers, timeout=60)
        assert left == []
    finally:
        process.kill()
        process.wait()
    assert len(list(place.birds.glob(f"adapters/{OLD}/4*/_manifest.json"))) < 3
    assert in_progress(place) == [], "an interrupted run says itself that it has ended"
