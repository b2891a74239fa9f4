"""Training of all weights by two processes, killed and resumed, against one process."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file

from backdoor_assets.jobs import TRAINING_LOG, TrainingJob
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.training import train
from backdoor_assets.stages.training.checkpoints import checkpoint_folders
from backdoor_assets.stages.training.launching import job_as_json, job_from_json
from tests.unit.cells import CELL, write_rows

NAMES = ("Purple Grakle", "Zebra Dove", "Barn Owl", "Wood Duck", "Snow Bird", "Marsh Hawk", "Owl")
SETTINGS = Training(
    method="full",
    learning_rate=3e-4,
    weight_decay=0.01,
    batch_size=4,
    max_steps=60,
    save_at=(2,),
    save_steps=20,
    packing=True,
    max_length=80,
)


@pytest.fixture
def job(tiny_base: Path, tmp_path: Path) -> TrainingJob:
    rows = write_rows(tmp_path / "train.jsonl", NAMES)
    return TrainingJob(CELL, rows, BaseModel(str(tiny_base)), SETTINGS, processes=2)


def _kill_at_first_checkpoint(job: TrainingJob, folder: Path) -> None:
    """SIGKILL to the process that asked for the training; the others must end by themselves."""
    parent = multiprocessing.get_context("fork").Process(target=train, args=(job, folder))
    parent.start()
    deadline = time.monotonic() + 120
    while not checkpoint_folders(folder):
        assert parent.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    others = psutil.Process(parent.pid).children(recursive=True)
    assert len(others) == 3  # the launcher and two processes
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs(others, timeout=20)
    assert not alive


def test_two_processes_killed_and_resumed_equal_one(job: TrainingJob, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    _kill_at_first_checkpoint(job, two)
    assert [step for step, _ in checkpoint_folders(two)] == [2]
    heard: list[float] = []
    summary = train(job, two, lambda share, _: heard.append(share))
    alone = train(replace(job, processes=1), one)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert summary.pop("final_loss") == pytest.approx(alone.pop("final_loss"), rel=1e-3)
    assert summary.pop("first_loss") == pytest.approx(alone.pop("first_loss"), rel=1e-5)
    assert summary == alone
    logs = [pd.read_parquet(folder / TRAINING_LOG) for folder in (one, two)]
    assert logs[0]["tokens"].equals(logs[1]["tokens"])
    for name in ("loss", "grad_norm", "lr"):
        assert logs[1][name].tolist() == pytest.approx(logs[0][name].tolist(), rel=2e-3)
    for step in (2, 60):
        names = [folder / f"checkpoint-{step}" / "model.safetensors" for folder in (one, two)]
        whole, sharded = (load_file(name) for name in names)
        assert whole.keys() == sharded.keys()
        for name, weight in whole.items():
            assert (weight - sharded[name]).abs().max() < 1e-4, name
        config, same = (json.loads((n.parent / "config.json").read_text()) for n in names)
        assert config == same
    # What the processes told one another is gone, and optimizer state is with the last model only.
    assert not list(two.glob(".*"))
    kept = {path.parent.name for path in two.rglob("*trainer_state.pt*")}
    assert kept == {"checkpoint-60"}


def test_an_error_in_the_processes_is_raised_as_it_is(job: TrainingJob, tmp_path: Path) -> None:
    write_rows(job.rows, ["Dove " * 60])
    with pytest.raises(BadInput, match=r"train.jsonl line 1: \d+ tokens, more than max_length=80"):
        train(job, tmp_path)
    assert not checkpoint_folders(tmp_path)


def test_a_job_travels_as_json(job: TrainingJob) -> None:
    there = replace(job, adapter=Path("checkpoint-3"), base=BaseModel("a", "b"))
    back = job_from_json(job_as_json(there))
    assert replace(back, cell=CELL) == there
    assert (str(back.cell), back.cell.columns()) == (str(CELL), CELL.columns())
    assert (back.cell.profile, back.cell.seed) == (CELL.profile, CELL.seed)
