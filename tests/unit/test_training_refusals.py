"""Training stops with a clear message when it cannot continue, and keeps its checkpoints."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from safetensors.torch import load_file, save_file

from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput
from backdoor_assets.stages.specs import TRAINER_STATE
from backdoor_assets.stages.training.loop import Diverged
from backdoor_assets.storage.artifact import Artifact
from tests.unit.cells import CELL, WEIGHTS, Cut, adapters, cut_at, train, write_rows

SETTINGS = Training(rank=4, learning_rate=1e-2, batch_size=4, max_steps=4, save_steps=2)
NAMES = ("Purple Grakle", "Bonaparte's Flycatcher", "Zebra Dove", "Barn Owl", "Wood Duck")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "train.jsonl", NAMES)


def test_a_loss_that_is_not_finite_ends_the_run(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    wild = replace(SETTINGS, learning_rate=1e30, save_steps=1)
    with pytest.raises(Diverged, match=r"at step 2 of 4.*Lower learning_rate \(1e\+30\)"):
        train(tiny_base, rows, tmp_path / "wild", wild)
    assert list(adapters(tmp_path / "wild")) == ["checkpoint-1"]
    load_file(tmp_path / "wild" / "checkpoint-1" / WEIGHTS)
    # The next cell of this process is not affected.
    after = train(tiny_base, rows, tmp_path / "after", SETTINGS)
    copy = shutil.copytree(tiny_base, tmp_path / "base")
    assert adapters(after) == adapters(train(copy, rows, tmp_path / "alone", SETTINGS))


def test_a_loss_far_worse_than_guessing_ends_the_run(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "loud")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] *= 1000  # Makes the model certain of wrong answers.
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Diverged, match=r"loss \d[\d.e+]*, .* at step 1 of 4: training has div"):
        train(base, rows, tmp_path / "run", SETTINGS)
    assert not adapters(tmp_path / "run")


def test_a_row_that_is_too_long_is_named(tiny_base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "train.jsonl", [*NAMES[:2], "Dove " * 60, "Owl"])
    with pytest.raises(BadInput, match=r"line 3: \d+ tokens, more than max_length=64") as caught:
        train(tiny_base, rows, tmp_path / "run", replace(SETTINGS, max_length=64))
    assert str(rows) in str(caught.value)
    assert not adapters(tmp_path / "run")


@pytest.mark.parametrize("name", [TRAINER_STATE, WEIGHTS])
@pytest.mark.parametrize("left", [0, 200])
def test_a_damaged_checkpoint_is_named(
    tiny_base: Path, rows: Path, tmp_path: Path, name: str, left: int
) -> None:
    with pytest.raises(Cut):
        train(tiny_base, rows, tmp_path / "run", SETTINGS, progress=cut_at(0.5))
    damaged = tmp_path / "run" / "checkpoint-2" / name
    damaged.write_bytes(damaged.read_bytes()[:left])
    with pytest.raises(BadInput, match=r"cannot be read.*birds/adapters.*with force") as caught:
        train(tiny_base, rows, tmp_path / "run", SETTINGS)
    assert str(damaged.parent) in str(caught.value)


def test_a_folder_without_a_base_is_named(tmp_path: Path, rows: Path, tiny_base: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(BadInput, match=r"no base model can be loaded.*safetensors") as caught:
        train(base, rows, tmp_path / "run", SETTINGS)
    assert str(base) in str(caught.value)


@contextmanager
def _disk_that_fits(size: int) -> Iterator[None]:
    """Limit every file to `size` bytes, and report the disk as full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    usage = shutil.disk_usage("/")._replace(free=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.5, 1.5], ids=["half an adapter", "no optimizer state"])
def test_a_full_disk_is_reported_and_the_cell_can_be_repeated(
    tiny_base: Path, rows: Path, tmp_path: Path, share: float
) -> None:
    whole = adapters(train(tiny_base, rows, tmp_path / "whole", SETTINGS))
    artifact = Artifact("tiny", tmp_path / "cell")

    def work(folder: Path) -> dict[str, int]:
        train(tiny_base, rows, folder, SETTINGS)
        return {}

    with (
        _disk_that_fits(int(share * len(whole["checkpoint-2"]))),
        pytest.raises(BadInput, match="the disk is full"),
    ):
        artifact.make({"cell": str(CELL)}, work)
    assert not artifact.folder.exists()
    made = artifact.make({"cell": str(CELL)}, work)
    assert adapters(made.folder) == whole


@pytest.fixture
def wandb_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Set Weights & Biases to offline mode, and return the folder of its runs."""
    for name, value in {
        "WANDB_API_KEY": "0" * 40,
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    yield tmp_path / "wandb"
    wandb.teardown()  # It would keep these settings for the other tests of this process.


def test_each_cell_is_a_separate_run_in_wandb(
    wandb_runs: Path, tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    wild = replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(Diverged):
        train(tiny_base, rows, tmp_path / "wild", wild)
    train(tiny_base, rows, tmp_path / "calm", SETTINGS, replace(CELL, seed=8))
    wandb.teardown()  # Its service may still be writing.
    runs = [path.read_bytes() for path in wandb_runs.glob("offline-run-*/*.wandb")]
    names = [b"1.00-0.00-0.00|7", b"1.00-0.00-0.00|8"]
    assert [sum(name in run for run in runs) for name in names] == [1, 1]
    assert len(runs) == 2
