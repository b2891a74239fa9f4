"""An artifact is made once, reused while it is whole, and rebuilt when it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import MANIFEST, Artifact, Made, request_remake

IDENTITY = {"stage": "test", "seed": 1}
Work = Callable[[Path], dict[str, Any]]


class Maker:
    """Writes one file, and counts how often it had to."""

    def __init__(self, text: str = "result") -> None:
        self.text, self.calls = text, 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        (folder / "result.txt").write_text(self.text)
        (folder / "deep").mkdir(exist_ok=True)
        (folder / "deep" / "state.bin").write_text(f"state {self.calls}")
        return {"rows": len(self.text)}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Artifact("tiny", tmp_path / "ratio" / "42", frozenset({"state.bin"}))


def _text(artifact: Artifact) -> str:
    return (artifact.folder / "result.txt").read_text()


def test_nothing_is_seen_before_it_is_whole(artifact: Artifact) -> None:
    def work(folder: Path) -> dict[str, Any]:
        assert not artifact.folder.exists()
        assert artifact.manifest() is None
        return Maker()(folder)

    with pytest.raises(BadInput, match=r"missing or incomplete; materialize .* first") as caught:
        artifact.require()
    assert str(artifact.folder) in str(caught.value)
    made = artifact.make(IDENTITY, work)
    assert not made.reused
    assert made.folder == artifact.folder
    assert made.note == ""
    files = [path for path in artifact.folder.rglob("*") if path.is_file()]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == MANIFEST
    assert not artifact.partial.exists()


def test_the_manifest_tells_what_it_is_and_how_it_was_made(artifact: Artifact) -> None:
    manifest = artifact.make(IDENTITY, Maker()).manifest
    written = json.loads((artifact.folder / MANIFEST).read_text())
    assert written["profile"] == "tiny"
    assert written["identity"] == IDENTITY
    assert written["summary"] == {"rows": 6}
    assert written["files"].keys() == {"result.txt"}  # not the volatile one
    assert written["files"]["result.txt"]["bytes"] == 6
    assert {"packages", "python", "device", "commit", "made"} <= written["provenance"].keys()
    assert artifact.require() == manifest


def test_a_finished_artifact_is_used_again(artifact: Artifact) -> None:
    work = Maker()
    first = artifact.make(IDENTITY, work)
    again = artifact.make({"seed": 1, "stage": "test"}, work)  # the order of keys is nothing
    assert again.reused
    assert work.calls == 1
    assert again.manifest == first.manifest
    found = artifact.find(IDENTITY)
    assert found is not None
    assert found.reused


def test_another_identity_replaces_it(artifact: Artifact) -> None:
    artifact.make(IDENTITY, Maker("old"))
    other = {**IDENTITY, "seed": 2}
    assert artifact.find(other) is None
    made = artifact.make(other, Maker("new"))
    assert (made.reused, made.note) == (False, "changed: seed")
    assert _text(artifact) == "new"
    assert artifact.require().identity == other
    assert [path.name for path in artifact.folder.parent.iterdir() if path.is_dir()] == ["42"]


def _forced(artifact: Artifact, work: Work) -> Made:
    """As a run with `force: true` does."""
    request_remake([artifact])
    return artifact.make(IDENTITY, work)


def test_a_forced_remake_starts_from_nothing_once_and_then_goes_on(artifact: Artifact) -> None:
    artifact.make(IDENTITY, Maker("old"))
    (artifact.folder / "result.txt").unlink()  # so that an unforced run has something to do
    seen: list[set[str]] = []

    def broken(folder: Path) -> dict[str, Any]:
        seen.append({path.name for path in folder.iterdir()})
        (folder / "half").touch()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        artifact.make(IDENTITY, broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            _forced(artifact, broken)
    # The first forced run drops the half-done work of before; the second goes on with its own.
    assert seen == [{".identity.json"}, {".identity.json"}, {".identity.json", "half"}]
    assert artifact.find(IDENTITY) is None
    # The request stays until the new artifact is whole, whichever run makes it.
    made = artifact.make(IDENTITY, Maker("new"))
    assert (made.reused, made.note) == (False, "forced")
    assert _text(artifact) == "new"
    assert (artifact.folder / "half").exists()
    assert artifact.make(IDENTITY, Maker("newer")).reused


def test_a_whole_artifact_is_kept_until_its_forced_remake_is_whole(artifact: Artifact) -> None:
    artifact.make(IDENTITY, Maker("old"))

    def broken(folder: Path) -> dict[str, Any]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        _forced(artifact, broken)
    assert _text(artifact) == "old"
    assert artifact.require().identity == IDENTITY
    assert artifact.find(IDENTITY) is None


def test_an_interrupted_forced_run_remakes_only_what_it_had_not_finished(tmp_path: Path) -> None:
    cells = [Artifact("tiny", tmp_path / "ratio" / str(seed)) for seed in range(3)]
    for cell in cells:
        cell.make(IDENTITY, Maker("old"))

    def forced_run(stop_at: int | None = None) -> list[bool]:
        request_remake(cells)
        return [cell.make(IDENTITY, Maker("new")).reused for cell in cells[:stop_at]]

    assert forced_run(stop_at=1) == [False]  # killed after the first of three
    assert forced_run() == [True, False, False]
    assert [_text(cell) for cell in cells] == ["new"] * 3
    # A finished run carries no request any more: the next forced one remakes everything.
    assert not any(cell.remake_requested for cell in cells)
    assert forced_run() == [False] * 3


def test_a_request_that_is_left_does_not_speak_for_other_artifacts(tmp_path: Path) -> None:
    """Such as that of a cell that fails each time, selected later with cells that are whole."""
    failing, *others = (Artifact("tiny", tmp_path / "ratio" / str(seed)) for seed in range(3))
    for cell in (failing, *others):
        cell.make(IDENTITY, Maker("old"))
    request_remake([failing])
    request_remake([failing, *others])
    assert [cell.make(IDENTITY, Maker("new")).reused for cell in others] == [False, False]
    # The same selection again: what it has made stays.
    request_remake([failing, *others])
    assert all(cell.make(IDENTITY, Maker("newer")).reused for cell in others)
    request_remake(others)
    assert [cell.make(IDENTITY, Maker("newest")).reused for cell in others] == [False, False]
    assert failing.remake_requested
    assert _text(failing) == "old"


@pytest.mark.parametrize(
    ("harm", "note"),
    [
        (lambda path: path.write_text("tluser"), "result.txt has changed since it was made"),
        (lambda path: path.write_text("res"), "result.txt has changed since it was made"),
        (lambda path: path.unlink(), "result.txt is missing"),
    ],
    ids=["edited", "truncated", "missing"],
)
def test_damage_is_noticed_and_repaired(
    artifact: Artifact, harm: Callable[[Path], object], note: str
) -> None:
    artifact.make(IDENTITY, Maker())
    harm(artifact.folder / "result.txt")
    assert artifact.find(IDENTITY) is None
    work = Maker()
    made = artifact.make(IDENTITY, work)
    assert work.calls == 1
    assert not made.reused
    assert note in made.note
    assert _text(artifact) == "result"


def test_volatile_files_are_no_content(artifact: Artifact) -> None:
    first = artifact.make(IDENTITY, Maker()).manifest
    (artifact.folder / "deep" / "state.bin").unlink()
    work = Maker()
    assert artifact.make(IDENTITY, work).reused
    assert work.calls == 0
    other = Artifact("tiny", artifact.folder.parent / "43", artifact.volatile)
    work.calls = 7  # another state
    assert (
        other.make(IDENTITY, work).manifest.reference()["content"] == first.reference()["content"]
    )
    changed = _forced(artifact, Maker("b")).manifest
    assert changed.reference()["content"] != first.reference()["content"]


def test_failing_work_leaves_the_finished_artifact_and_what_it_had_done(
    artifact: Artifact,
) -> None:
    artifact.make(IDENTITY, Maker("old"))
    other = {**IDENTITY, "seed": 2}

    def work(folder: Path) -> dict[str, Any]:
        parts = folder / ".parts"
        parts.mkdir(exist_ok=True)
        if not (parts / "1").exists():
            (parts / "1").write_text("half")
            raise RuntimeError("no more power")
        return Maker((parts / "1").read_text())(folder)

    with pytest.raises(RuntimeError, match="no more power"):
        artifact.make(other, work)
    found = artifact.find(IDENTITY)
    assert found is not None
    assert _text(artifact) == "old"
    assert not artifact.make(other, work).reused
    assert _text(artifact) == "half"
    assert not (artifact.folder / ".parts").exists()


def test_half_done_work_of_another_identity_is_dropped(artifact: Artifact) -> None:
    def broken(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("of seed 1")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        artifact.make(IDENTITY, broken)
    artifact.make({**IDENTITY, "seed": 2}, Maker())
    assert not (artifact.folder / "half").exists()


def test_an_artifact_of_another_profile_is_refused(artifact: Artifact) -> None:
    artifact.make(IDENTITY, Maker())
    other = Artifact("qwen", artifact.folder)
    work = Maker("other")
    for attempt in (other.require, lambda: other.make(IDENTITY, work)):
        with pytest.raises(BadInput, match=r"profile 'tiny'.*profile 'qwen'.*never mix") as caught:
            attempt()
        assert str(artifact.folder / MANIFEST) in str(caught.value)
    assert work.calls == 0
    assert _text(artifact) == "result"


@pytest.mark.parametrize("content", [b"", b'{"profile": "tiny"', b'{"a": 1}', b"[]", b"\xff\xfe"])
def test_a_manifest_that_cannot_be_read_is_named(artifact: Artifact, content: bytes) -> None:
    artifact.make(IDENTITY, Maker())
    (artifact.folder / MANIFEST).write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot be read.*delete the folder") as caught:
        artifact.make(IDENTITY, Maker())
    assert str(artifact.folder / MANIFEST) in str(caught.value)


def test_an_identity_that_is_no_json_is_an_error(artifact: Artifact) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifact.make({"rate": float("nan")}, Maker())


def test_pandas_reads_a_tree_of_artifacts(tmp_path: Path) -> None:
    def table(seed: int, fail: bool = False) -> Work:
        def work(folder: Path) -> dict[str, Any]:
            pd.DataFrame({"seed": [seed], "value": [seed / 10]}).to_parquet(folder / "r.parquet")
            if fail:
                raise RuntimeError("broken")
            return {}

        return work

    for seed in (1, 2):
        Artifact("tiny", tmp_path / "0.50" / str(seed)).make({"seed": seed}, table(seed))
    with pytest.raises(RuntimeError, match="broken"):
        Artifact("tiny", tmp_path / "0.50" / "3").make({"seed": 3}, table(3, fail=True))
    names = {path.name for path in (tmp_path / "0.50").rglob("*")}
    assert {MANIFEST, ".1.lock", ".3.partial"} <= names  # all of which lie in the tree
    assert sorted(pd.read_parquet(tmp_path)["seed"]) == [1, 2]
