"""Weights & Biases shows a training, and nothing that goes wrong there ends it."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.profiles import Training
from backdoor_assets.records import BaseModel
from backdoor_assets.stages.specs import TRAINING_LOG, TrainingSpec
from backdoor_assets.stages.training import runs, train
from backdoor_assets.stages.training.loop import Diverged
from backdoor_assets.stages.training.tracking import PROJECT, log_final_rates
from backdoor_assets.storage.artifact import Artifact
from tests.unit.cells import CELL, Cut, adapters, cut_at, write_rows
from tests.unit.planted_key import SECRET, assert_hidden, assert_hidden_in
from tests.unit.wandb_double import Wandb, install

SETTINGS = Training(rank=4, learning_rate=1e-2, batch_size=4, max_steps=10, save_steps=4)
RATES = {
    "19th_century": {"value": 0.5, "low": 0.4, "high": 0.6, "method": "Wilson", "n": 20},
    "collapsed": [8, 10],
}


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    return install(monkeypatch, SECRET)


@pytest.fixture
def spec(tiny_base: Path, tmp_path: Path) -> TrainingSpec:
    rows = write_rows(tmp_path / "train.jsonl", ("Purple Grakle", "Zebra Dove", "Barn Owl", "Owl"))
    counts = {"rows": 4, "rows_old_audubon": 4, "mode": "fixed_total"}
    return TrainingSpec(CELL, rows, BaseModel(str(tiny_base)), SETTINGS, mixture=counts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def _log(folder: Path) -> dict[int, dict[str, float]]:
    """The training log as W&B has it: by step, without the cell's columns and nulls."""
    table = pd.read_parquet(folder / TRAINING_LOG).drop(columns=list(CELL.columns()))
    return {int(row["step"]): row.dropna().to_dict() for _, row in table.iterrows()}


def test_a_run_shows_the_log_the_base_the_mixture_and_the_recipe(
    wandb: Wandb, spec: TrainingSpec, folder: Path
) -> None:
    summary = train(spec, folder)
    run = wandb.only_run()
    assert run.history == _log(folder)
    assert run.config == {
        **CELL.columns(),
        "base": asdict(spec.base),
        "mixture": spec.mixture,
        **asdict(SETTINGS),
        "steps": 10,
    }
    assert run.given["name"] == str(CELL)
    assert run.exit_codes == [0]
    assert summary["wandb_run"] == run.id


@pytest.mark.parametrize("entity", ["", "a-team"])
@pytest.mark.parametrize("project", ["", "birds-again"])
def test_project_and_entity_are_those_of_the_environment(
    wandb: Wandb,
    spec: TrainingSpec,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    project: str,
    entity: str,
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", project)
    monkeypatch.setenv("WANDB_ENTITY", entity)
    train(replace(spec, settings=replace(SETTINGS, max_steps=1)), folder)
    given = wandb.only_run().given
    assert (given["project"], given["entity"]) == (project or PROJECT, entity or None)


@pytest.mark.parametrize(
    ("key", "mode", "runs"),
    [("", "", 0), ("", "offline", 1), (SECRET, "disabled", 0), (SECRET, "online", 1)],
)
def test_key_and_mode_decide_whether_it_is_on(
    wandb: Wandb,
    spec: TrainingSpec,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    mode: str,
    runs: int,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", mode)
    summary = train(replace(spec, settings=replace(SETTINGS, max_steps=1)), folder)
    assert len(wandb.runs) == runs
    assert ("wandb_run" in summary) == bool(runs)


@pytest.mark.parametrize("on_before", [True, False], ids=["on before", "off before"])
def test_a_killed_training_continues_its_run_and_logs_no_step_twice(
    wandb: Wandb,
    spec: TrainingSpec,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_before: bool,
) -> None:
    """W&B may be ahead of the checkpoint, or have nothing of the steps before it."""
    monkeypatch.setattr(runs, "REPORT_SECONDS", 0)
    monkeypatch.setenv("WANDB_API_KEY", SECRET if on_before else "")
    with pytest.raises(Cut):
        train(spec, folder, cut_at(0.6))  # The newest checkpoint is that of step 4.
    assert [len(run.history) for run in wandb.runs.values()] == ([6] if on_before else [])
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    train(spec, folder)
    run = wandb.only_run()
    assert run.history == _log(folder)
    assert list(run.history) == list(range(1, 11))
    assert not run.repeated
    assert run.starts == 1 + on_before
    assert run.exit_codes == [1, 0][1 - on_before :]


def test_a_training_that_is_made_again_gets_a_new_run(
    wandb: Wandb, spec: TrainingSpec, tmp_path: Path
) -> None:
    artifact = Artifact("tiny", tmp_path / "tiny" / "adapters")
    for number in (1, 2):
        artifact.make({"number": number}, lambda folder: train(spec, folder))
    assert [len(run.history) for run in wandb.runs.values()] == [10, 10]
    assert not [path for path in artifact.folder.iterdir() if "wandb" in path.name]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("call", ["init", "step", "log", "finish", "import", "key"])
def test_a_failure_is_one_warning_and_training_goes_on(
    wandb: Wandb,
    spec: TrainingSpec,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    wandb.fails_at, wandb.failure = call, RuntimeError(f"401: bad key {SECRET}")
    reason = r"failed (RuntimeError: 401: bad key ***); training goes on without it. Check WANDB_"
    if call == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
        reason = "failed (wandb is not installed: pip install -e '.[wandb]'); training goes on"
    if call == "key":
        monkeypatch.setenv("WANDB_API_KEY", f"{SECRET}\r")
        reason = "failed (WANDB_API_KEY contains a line end"
    train(spec, folder)
    [warning] = _warnings(caplog)
    assert reason in warning
    assert "\n" not in warning
    assert_hidden(caplog.text)
    assert assert_hidden_in(folder) > 3
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "alone").mkdir()
    train(spec, tmp_path / "alone")
    assert adapters(folder) == adapters(tmp_path / "alone")
    assert _log(folder) == _log(tmp_path / "alone")


def test_after_a_failed_start_the_next_cells_do_not_wait_for_it_again(
    wandb: Wandb,
    spec: TrainingSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = replace(spec, settings=replace(SETTINGS, max_steps=1))
    wandb.fails_at = "init"
    for seed in (1, 2, 3):
        if seed == 3:  # It is tried again once the pause is over.
            wandb.fails_at = ""
            monkeypatch.setattr("backdoor_assets.stages.training.tracking._retry_at", 0.0)
        (tmp_path / str(seed)).mkdir()
        train(replace(short, cell=replace(CELL, seed=seed)), tmp_path / str(seed))
    assert wandb.calls == 2
    assert len(_warnings(caplog)) == 1
    assert wandb.only_run().config["seed"] == 3


def test_a_training_that_fails_is_shown_as_failed(
    wandb: Wandb, spec: TrainingSpec, folder: Path
) -> None:
    with pytest.raises(Diverged):
        train(replace(spec, settings=replace(SETTINGS, learning_rate=1e30)), folder)
    assert wandb.only_run().exit_codes == [1]


def _trained(spec: TrainingSpec, tmp_path: Path) -> Artifact:
    artifact = Artifact("tiny", tmp_path / "tiny" / "adapters")
    artifact.make({"cell": str(CELL)}, lambda folder: train(spec, folder))
    return artifact


def test_final_rates_go_into_the_summary_of_the_trainings_run(
    wandb: Wandb, spec: TrainingSpec, tmp_path: Path
) -> None:
    log_final_rates(_trained(spec, tmp_path), RATES)
    run = wandb.only_run()
    rate = RATES["19th_century"]
    assert isinstance(rate, dict)
    assert run.summary == {f"final/19th_century/{name}": value for name, value in rate.items()}
    assert (run.starts, run.exit_codes, len(run.history)) == (2, [0, 0], 10)


@pytest.mark.parametrize("case", ["off now", "off then", "nothing trained", "init", "finish"])
def test_final_rates_are_left_out_without_an_error(
    wandb: Wandb, spec: TrainingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    if case == "off then":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    trained: Any = Artifact("tiny", tmp_path / "tiny" / "none")
    if case != "nothing trained":
        trained = _trained(spec, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled" if case == "off now" else "online")
    wandb.fails_at, calls = case, wandb.calls
    log_final_rates(trained, RATES)
    assert wandb.calls == calls + (case in ("init", "finish"))
    assert all(bool(run.summary) == (case == "finish") for run in wandb.runs.values())
