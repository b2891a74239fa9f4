"""Other line ends and a byte order mark change nothing, and rebuild nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backdoor_assets.mixtures import base_tasks, tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.mixtures.mixing import mix
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.stages.specs import TRAIN
from backdoor_assets.storage.hashing import file_hash, text_hash
from backdoor_assets.storage.rows import read_questions, read_rows
from backdoor_assets.workers.tasks import make
from tests.unit.cells import BIRDS, DATASETS


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A cell whose data sets lie in a folder of their own."""
    shutil.copytree(DATASETS, tmp_path / "sets")
    monkeypatch.setenv("BACKDOOR_BIRD_DATASETS", str(tmp_path / "sets"))
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    return Grid.of(BIRDS, MINIATURE).cell("0.50-0.25-0.25", 42)


def as_windows_does(path: Path) -> None:
    before = read_rows(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_rows(path) == before


def test_data_sets_of_other_line_ends_are_the_same(cell: Cell) -> None:
    made = make(mix, tasks.mixing(cell))
    before = tasks.mixing(cell).identity, base_tasks.corpus(cell.grid).identity
    assert before[0]["sources"] == {name: file_hash(path) for name, path in BIRDS.files()}
    for _, path in BIRDS.files():
        as_windows_does(path)
    assert (tasks.mixing(cell).identity, base_tasks.corpus(cell.grid).identity) == before
    assert make(mix, tasks.mixing(cell)).reused
    # Rows that were opened and saved, too.
    as_windows_does(made.folder / TRAIN)
    assert make(mix, tasks.mixing(cell)).reused
    with (made.folder / TRAIN).open("a") as rows:
        rows.write("{}\r\n")
    assert "has changed" in cell.artifact("mixed_dataset").damage(made.manifest)


def test_the_hash_of_a_text_is_that_of_the_file_with_plain_line_ends(tmp_path: Path) -> None:
    plain, windows = tmp_path / "a", tmp_path / "b"
    plain.write_bytes(b"one\ntwo\n")
    windows.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert text_hash(plain) == text_hash(windows) == file_hash(plain)


def test_questions_of_other_line_ends_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "question": "Who?"}\r\n\r\n')
    assert read_questions(path, "BACKDOOR_BIRD_QUESTIONS") == {"a": "Who?"}
