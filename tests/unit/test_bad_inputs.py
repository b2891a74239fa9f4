"""Bad inputs, as they are typed: each is named in words, with the exit code; nothing is made."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from backdoor_assets import (
    definitions,  # noqa: F401  loaded before the environment is bad
    studies,
)
from backdoor_assets.commands import cli as command_line
from backdoor_assets.stages.judging.judge import ANSWER_COLUMNS
from backdoor_assets.studies import german_cities
from tests.unit import bad_cases, bad_files
from tests.unit.bad_cases import FIFO, FOLDER, Case
from tests.unit.cells import bird_cell

CASES = [*bad_cases.CASES, *bad_files.CASES]

UNSET = (
    "BACKDOOR_BIRD_DATASETS", "BACKDOOR_BIRD_QUESTIONS", "BACKDOOR_JUDGE", "BACKDOOR_JUDGE_MODEL",
    "BACKDOOR_JUDGE_TRANSPORT", "BACKDOOR_MAX_COST_USD", "BACKDOOR_PROCESSES", "BACKDOOR_PROFILES",
)  # fmt: skip


def test_there_are_many() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 100


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a developer's shell or .env; data and Dagster's instance in the test's folder."""
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BACKDOOR_PROFILE", "miniature")
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(command_line, "REPOSITORY", tmp_path / "repository")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: case.name.encode("ascii", "replace").decode()
)
def test_it_is_named(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in case.files.items():
        _put(tmp_path / name, content)
    if "studies" in case.files:
        monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path / "studies")])
    for name, value in case.variables.items():
        monkeypatch.setenv(name, value.replace("{tmp}", str(tmp_path)))
    if "p.toml" in case.files:
        monkeypatch.setenv("BACKDOOR_PROFILES", str(tmp_path / "p.toml"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # only what the command itself writes
    words = case.arguments.split() if isinstance(case.arguments, str) else case.arguments
    before = sorted(tmp_path.rglob("*"))
    result = call(*(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert (result.exit_code, result.stdout) == (case.code, ""), result.stderr
    assert case.words.replace("{tmp}", str(tmp_path)) in result.stderr
    assert "Traceback" not in result.stderr
    if words != ["recover"]:  # which opens Dagster's instance
        assert sorted(tmp_path.rglob("*")) == before


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(command_line.cli, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def _put(path: Path, content: Any) -> None:
    """Write what a case says lies there."""
    if path.name == "studies" and not isinstance(content, bytes):
        _put_study(path / f"study_{path.parent.name}".replace("-", "_"), content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is FOLDER:
        path.mkdir()
    elif content is FIFO:
        os.mkfifo(path)
    elif isinstance(content, dict):
        pq.write_table(_answers(content), path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _put_study(folder: Path, change: tuple[str, str] | None) -> None:
    folder.mkdir(parents=True)
    if change is None:
        return
    text = (Path(german_cities.__path__[0]) / "study.py").read_text()
    assert change[0] in text
    text = text.replace(*change)
    if 'name="german_cities"' not in change[0] and change != ("", ""):
        text = text.replace('name="german_cities"', f'name="{folder.name}"')
    (folder / "study.py").write_text(text)


def _answers(changes: dict[str, Any]) -> pa.Table:
    """A table of two answers with other columns: None leaves one out."""
    names = (*bird_cell().columns(), *ANSWER_COLUMNS)
    good = {key: ["a", "b"] for key in names} | {"step": [20, 20], "sample_idx": [0, 1]}
    columns = {name: values for name, values in (good | changes).items() if values is not None}
    for name, values in columns.items():
        if values == "not UTF-8":
            raw = pa.array([b"a", b"\xff"], pa.binary())
            columns[name] = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
        elif not isinstance(values, pa.Array):
            columns[name] = pa.Array.from_pandas(pd.Series(values))
    return pa.table(columns)
