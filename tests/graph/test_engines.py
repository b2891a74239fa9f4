"""A row of cells through the graph: one load of the base, one start of the engine."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pandas as pd
import psutil
import pytest

from backdoor_assets.profiles import Profile
from tests.engines.conftest import needed
from tests.graph.conftest import Graph, Place, step_errors
from tests.graph.study import MODERN, OLD, STUDY

SAMPLES = 3
VLLM = replace(STUDY, sampling=replace(STUDY.sampling, engine="vllm", samples=SAMPLES))
GPU = ("mixed_dataset", "adapters", "responses")


@pytest.fixture(autouse=True)
def vllm() -> None:
    needed("vllm")


def said(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> list[str]:
    """What a run's log says, line by line."""
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


def answers(place: Place) -> pd.DataFrame:
    """Of all cells, worldview and probes."""
    table = pd.read_parquet(place.birds / "responses")
    return table.sort_values(
        ["ratio", "seed", "step", "question_id", "sample_idx"], ignore_index=True
    )


def test_a_row_of_cells_loads_one_base_and_starts_one_engine(
    place: Place,
    graph_of: Callable[[Place, Profile], Graph],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """And when the engine's process is killed with -9 in the middle, another takes over, to the
    same answers."""
    monkeypatch.setenv("BACKDOOR_PROCESSES", "1")
    graph = graph_of(place, VLLM)
    assert graph.run(["base_responses"]).success
    result = graph.run(GPU, partitions=(f"{OLD}|42", f"{OLD}|43"))
    assert result.success, step_errors(result)
    lines = said(result, graph.instance)
    assert sum("base model" in line and "loaded in" in line for line in lines) == 1
    assert sum("vLLM engine started" in line for line in lines) == 1
    table = answers(place)
    asked = VLLM.sampling
    each = 3 * (18 * asked.samples + asked.narrow_samples + 12 * asked.neutral_samples)
    assert table.groupby("seed").size().tolist() == [each] * 2
    made = graph.materializations("responses", f"{OLD}|43")[0].metadata
    assert made["answers"].value == 3 * 18 * SAMPLES

    other = Place(tmp_path_factory.mktemp("killed"))
    shutil.copytree(place.data, other.data)
    shutil.rmtree(other.birds / "responses")
    process = other.start(
        *("--ratios", OLD, "--seeds", "42", "43", "--samples", str(SAMPLES)),
        *("--engine", "vllm", "--only", "birds_gpu"),
    )
    try:
        journal = other.birds / "responses" / OLD / ".42.partial" / ".answers.jsonl"
        deadline = time.monotonic() + 600
        while not (journal.exists() and journal.stat().st_size > 2000):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        children = {" ".join(c.cmdline()): c for c in psutil.Process(process.pid).children()}
        forking = [child for line, child in children.items() if "forkserver" in line]
        spawned = [child for line, child in children.items() if "spawn_main" in line]
        [worker] = forking[0].children() if forking else spawned
        os.kill(worker.pid, signal.SIGKILL)
        before = journal.read_text().splitlines()
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output[-3000:]
    assert output.count("vLLM engine started") == 2
    assert 0 < len(before) < each
    assert answers(other).equals(table)


def test_an_engine_that_is_not_there_is_told_before_training(
    place: Place,
    graph_of: Callable[[Place, Profile], Graph],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backdoor_assets.capacity.preflight.installed", lambda package: False)
    result = graph_of(place, VLLM).run(GPU, partition=f"{MODERN}|42")
    assert not result.success
    assert "vllm: not installed: pip install -e '.[gpu]'" in step_errors(result)
    assert not (place.birds / "adapters").exists()
