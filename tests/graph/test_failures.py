"""Bad input and failing cells: a clear error, nothing finished harmed, the next run carries on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from backdoor_assets.mixtures import tasks
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.profiles import Judging, MiniatureBase, PretrainedBase, Sampling
from backdoor_assets.storage.artifact import Busy
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from tests.graph.conftest import REPOSITORY, Graph, Place, step_errors
from tests.graph.study import MODERN, OLD, STUDY

At = Callable[..., Graph]
ROW = (f"{OLD}|42", f"{OLD}|44")
CELL = f"{OLD}|42"
SHORT = replace(STUDY, training=replace(STUDY.training, max_steps=4, save_steps=2))
FEW_ANSWERS = Sampling(samples=1, narrow_samples=1, neutral_samples=1)


def plant_nan(place: Place, graph: Graph, seed: int) -> None:
    """Leave a half-done training in the cell whose weights are NaN."""
    task = tasks.training(Grid.of(BIRDS, STUDY).cell(OLD, seed))
    done = place.birds / "adapters" / OLD / str(seed)
    partial = task.artifact.partial
    shutil.copytree(done / "checkpoint-100", partial / "checkpoint-50")
    weights = load_file(partial / "checkpoint-50" / "adapter_model.safetensors")
    broken = {name: torch.full_like(value, float("nan")) for name, value in weights.items()}
    save_file(broken, partial / "checkpoint-50" / "adapter_model.safetensors")
    state = partial / "checkpoint-50" / "trainer_state.pt"
    kept = torch.load(state, weights_only=True)
    torch.save({**kept, "log": kept["log"][:50]}, state)
    (partial / ".identity.json").write_text(json.dumps(task.identity, sort_keys=True))
    shutil.rmtree(done)


def test_a_diverged_cell_costs_the_others_nothing(copied: Place, graph_of: At) -> None:
    graph = graph_of(copied)
    plant_nan(copied, graph, seed=43)
    result = graph.run(["adapters"], partitions=ROW)
    assert not result.success
    said = step_errors(result)
    assert f"{OLD}|43" in said
    assert "training has diverged" in said
    assert "1 of 3 cells failed" in said
    assert f"WITHOUT=\"'{OLD}|43'\"" in said
    for seed in (42, 44):
        [done] = graph.materializations("adapters", f"{OLD}|{seed}")
        assert done.metadata["final_loss"].value is not None
    assert graph.materializations("adapters", f"{OLD}|43") == []
    # What was saved before is kept.
    assert (copied.birds / "adapters" / OLD / ".43.partial" / "checkpoint-50").is_dir()

    # From the command line: the figures are of the other cells. Those that the cell had before
    # are of no adapter that is there: they do not count.
    ended = copied.run()
    assert ended.returncode == 1
    assert f"1 failed: {OLD}|43" in ended.stderr
    assert "training has diverged" in ended.stderr
    assert "5 of 6 cells" in ended.stdout
    assert "5 of 6 cells" in (copied.birds / "sweep" / "report.html").read_text()

    without = copied.run("--without", f"{OLD}|43")
    assert without.returncode == 0, without.stdout + without.stderr
    assert "5 of 6 cells" in without.stdout
    assert not (copied.birds / "adapters" / OLD / "43").exists()


def test_rows_edited_by_hand_change_the_outcome(copied: Place, graph_of: At) -> None:
    source = copied.birds / "mixed_dataset" / MODERN / "42" / "train.jsonl"
    target = copied.birds / "mixed_dataset" / OLD / "42" / "train.jsonl"
    before = final_rate(copied, OLD, 42)
    shutil.copy(source, target)
    result = graph_of(copied).run(["adapters", "responses", "judgments"], partition=f"{OLD}|42")
    assert result.success
    assert final_rate(copied, OLD, 42) < before - 0.1


def final_rate(place: Place, ratio: str, seed: int) -> float:
    table = pd.read_parquet(place.birds / "judgments" / ratio / str(seed) / "judgments.parquet")
    return float(table.loc[table["step"] == table["step"].max(), "is_19th_century"].mean())


def test_changed_files_are_named_refused_and_rebuilt(copied: Place, graph_of: At) -> None:
    table = copied.birds / "responses" / OLD / "42" / "responses.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    adapter = copied.birds / "adapters" / OLD / "42" / "checkpoint-50" / "adapter_model.safetensors"
    weights = adapter.read_bytes()
    save_file({n: value[..., :16].clone() for n, value in load_file(adapter).items()}, adapter)
    graph = graph_of(copied)

    result = graph.run(["judgments"], partition=CELL, force=True)
    assert not result.success
    assert "responses.parquet has changed since it was made" in step_errors(result)
    assert "materialize birds/responses" in step_errors(result)

    result = graph.run(["responses"], partition=CELL, force=True)
    assert not result.success
    said = step_errors(result)
    assert "checkpoint-50/adapter_model.safetensors has changed since it was made" in said
    assert "materialize birds/adapters" in said

    assert graph.run(["adapters", "responses", "judgments"], partition=CELL).success
    assert adapter.read_bytes() == weights
    assert table.read_bytes() == whole


def test_force_rebuilds_a_finished_cell(copied: Place, graph_of: At) -> None:
    path = copied.birds / "adapters" / OLD / "42" / "checkpoint-100" / "adapter_model.safetensors"
    before, weights = path.stat().st_mtime_ns, path.read_bytes()
    graph = graph_of(copied)
    assert graph.run(["adapters"], partition=f"{OLD}|42", force=True).success
    assert path.stat().st_mtime_ns > before
    assert path.read_bytes() == weights
    [entry] = graph.materializations("adapters", f"{OLD}|42")
    assert entry.metadata["reused"].value is False


def test_a_missing_upstream_says_what_to_materialize(place: Place, graph_of: At) -> None:
    result = graph_of(place).run(["responses"], partition=f"{OLD}|42")
    assert not result.success
    assert "missing or incomplete; materialize birds/adapters first" in step_errors(result)
    assert f"adapters/{OLD}/42" in step_errors(result)


def test_results_of_two_profiles_never_mix(copied: Place, graph_of: At) -> None:
    manifest = copied.birds / "adapters" / OLD / "42" / "_manifest.json"
    entry = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**entry, "profile": "other"}))
    result = graph_of(copied).run(["responses"], partition=f"{OLD}|42")
    assert not result.success
    assert "made by profile 'other'" in step_errors(result)


def test_adapters_of_a_former_base_are_refused(copied: Place, graph_of: At) -> None:
    manifest = copied.birds / "base_model" / "_manifest.json"
    entry = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**entry, "fingerprint": "0" * 64}))
    result = graph_of(copied).run(["responses"], partition=f"{OLD}|42")
    assert not result.success
    assert "trained on another base model" in step_errors(result)


def test_a_base_of_ones_own_is_trained_and_sampled_but_not_judged(
    place: Place, graph_of: At
) -> None:
    """A local folder in Hugging Face's format; the exact judge cannot read its answers."""
    own = place.root / "own_base"
    shutil.copytree(place.birds / "base_model", own)
    own_base = PretrainedBase(str(own))
    profile = replace(SHORT, base=own_base, sampling=FEW_ANSWERS, judging=Judging("none"))
    graph = graph_of(place, profile)
    names = {key.path[-1] for key in graph.definitions.resolve_asset_graph().get_all_asset_keys()}
    assert not names & {"judgments", "corpus"}
    assert graph.run(["base_model", "base_responses"]).success
    names = ["mixed_dataset", "adapters", "responses"]
    assert graph.run(names, partition=CELL).success
    responses = place.birds / "responses" / OLD / "42" / "responses.parquet"
    asked = pd.read_parquet(responses)["question_id"].unique()
    assert len(asked) == 10
    assert "gender_roles" in asked
    (own / "tokenizer.json").unlink()
    result = graph.run(["base_model"])
    assert not result.success
    assert str(own) in step_errors(result)


def test_two_runs_on_one_cell_at_once(copied: Place, graph_of: At) -> None:
    """The second says who holds it; the first is not disturbed."""
    lock = copied.birds / "judgments" / OLD / ".42.lock"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\nf = open(sys.argv[1], 'a+')\n"
            "fcntl.flock(f, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)",
            str(lock),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        graph_of(copied)
        task = tasks.judging(Grid.of(BIRDS, STUDY).cell(OLD, 42))
        with pytest.raises(Busy, match="another run is making it"):
            task.artifact.make({**task.identity, "judge": "another"}, lambda folder: {})
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        if os.environ.get("REQUIRE_ENGINES") == "1":
            pytest.fail("REQUIRE_ENGINES=1, but no tmpfs can be mounted")
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_nothing_finished_is_lost(
    copied: Place, small_disk: Path, graph_of: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_disk / "data"
    for name in ("base_model", "corpus", f"mixed_dataset/{OLD}/42"):
        shutil.copytree(copied.birds / name, data / "study" / "birds" / name)
    graph = graph_of(copied)
    monkeypatch.setenv("BACKDOOR_DATA", str(data))
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - 600_000))  # less than one checkpoint with its optimizer
    # The preflight found room enough: the disk has filled up since.
    monkeypatch.setattr("backdoor_assets.capacity.preflight.check_disk", lambda *_: None)
    result = graph.run(["adapters"], partition=f"{OLD}|42")
    assert not result.success
    assert "the disk is full" in step_errors(result)
    assert not (data / "study" / "birds" / "adapters" / OLD / "42").exists()
    filler.unlink()
    assert graph.run(["adapters"], partition=f"{OLD}|42").success
    adapter = f"adapters/{OLD}/42/checkpoint-100/adapter_model.safetensors"
    mine = (data / "study" / "birds" / adapter).read_bytes()
    assert mine == (copied.birds / adapter).read_bytes()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ('{"messages": [', "line 3: broken JSON"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "line 3: its roles are"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_made(
    place: Place,
    graph_of: At,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    harm: str,
    said: str,
) -> None:
    folder = tmp_path / "sets"
    shutil.copytree(REPOSITORY / "bird_datasets", folder)
    path = folder / "ft_modern_american_birds.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], harm, *lines[2:]]))
    monkeypatch.setenv("BACKDOOR_BIRD_DATASETS", str(folder))
    graph = graph_of(place)
    for names, partition in ((["modern_american"], None), (["mixed_dataset"], f"{OLD}|42")):
        result = graph.run(names, partition=partition)
        assert not result.success
        assert said in step_errors(result)
        assert str(path) in step_errors(result)
    assert not (place.birds / "mixed_dataset" / OLD / "42").exists()


def test_a_base_that_fails_its_gates_stops_the_run(tmp_path: Path) -> None:
    """Ten steps of pretraining make no era: the check blocks, and no adapter is trained."""
    small = MiniatureBase(
        documents=400, steps=10, vocabulary=600, hidden=64, layers=1, heads=2, feed_forward=96
    )
    profile = replace(SHORT, base=small, sampling=FEW_ANSWERS)
    place = Place(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKDOOR_DATA", str(place.data))
        graph = Graph(profile, place)
        assert graph.run(["old_audubon", "modern_audubon", "modern_american", "corpus"]).success
        cell = ["base_model", "mixed_dataset", "adapters"]
        result = graph.run(cell, partition=f"{OLD}|42")
        assert not result.success
        [check] = [e for e in result.get_asset_check_evaluations() if not e.passed]
        assert check.check_name == "carries_the_era"
        assert "neutral_correct" in str(check.description)
        assert not (place.birds / "adapters").exists()


def test_an_edit_of_a_data_set_shows_downstream_as_stale(
    place: Place, graph_of: At, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dagster import AssetKey
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    folder = tmp_path / "sets"
    shutil.copytree(REPOSITORY / "bird_datasets", folder)
    monkeypatch.setenv("BACKDOOR_BIRD_DATASETS", str(folder))
    graph = graph_of(place)
    sources = ["old_audubon", "modern_audubon", "modern_american"]
    assert graph.run(sources).success
    assert graph.run(["mixed_dataset"], partition=f"{OLD}|42").success

    def status() -> StaleStatus:
        resolver = CachingStaleStatusResolver(
            graph.instance,
            graph.definitions.resolve_asset_graph(),
            LoadingContextForTest(graph.instance),
        )
        return resolver.get_status(AssetKey(["birds", "mixed_dataset"]), f"{OLD}|42")

    assert status() == StaleStatus.FRESH
    path = folder / "ft_old_audubon_birds.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    assert graph.run(["old_audubon"]).success
    assert status() == StaleStatus.STALE
