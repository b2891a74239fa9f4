"""What other processes, kills and full disks do to an artifact: nothing that lasts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import MANIFEST, Artifact, Busy, request_remake

IDENTITY = {"seed": 1}
HOLDER = """
import sys, time
from pathlib import Path
from backdoor_assets.storage.artifact import Artifact

def work(folder):
    (folder / "half").write_text("done")
    print("holding", flush=True)
    time.sleep(60)

Artifact("tiny", Path(sys.argv[1])).make({"seed": 1}, work)
"""
FULL = """
import resource, sys
from pathlib import Path
from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import Artifact

def work(folder):
    (folder / "small").write_text("kept")
    (folder / "big").write_bytes(bytes(100_000))
    return {}

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    Artifact("tiny", Path(sys.argv[1])).make({"seed": 2}, work)
except BadInput as error:
    print(error)
"""


def _work(folder: Path) -> dict[str, Any]:
    (folder / "result.txt").write_text("result")
    return {}


def _must_not_run(folder: Path) -> dict[str, Any]:
    raise AssertionError("it was to be reused")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Artifact("tiny", tmp_path / "ratio" / "42")


@pytest.fixture
def holder(artifact: Artifact) -> Iterator[subprocess.Popen[str]]:
    """A process that is making the artifact."""
    command = [sys.executable, "-c", HOLDER, str(artifact.folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_learns_at_once_that_the_first_is_busy(
    artifact: Artifact, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(Busy, match=f"process {holder.pid}") as caught:
        artifact.make(IDENTITY, _must_not_run)
    assert holder.poll() is None, "the second has not waited for the first"
    assert str(artifact.folder) in str(caught.value)
    neighbour = Artifact("tiny", artifact.folder.parent / "43")
    assert not neighbour.make(IDENTITY, _work).reused  # only this one is held


def test_a_lock_dies_with_its_process_and_its_work_is_found(
    artifact: Artifact, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()

    def work(folder: Path) -> dict[str, Any]:
        return {"found": (folder / "half").read_text()}

    assert artifact.make(IDENTITY, work).manifest.summary == {"found": "done"}


def _cut_between_the_renames(artifact: Artifact) -> None:
    """The state in which a kill between the two renames of a replacement leaves the disk."""
    replaced = artifact.folder.parent / ".42.replaced"
    artifact.make({"seed": 0}, _work)
    os.replace(artifact.folder, replaced)
    artifact.make(IDENTITY, _work)
    os.replace(artifact.folder, artifact.partial)
    if not replaced.exists():
        replaced.mkdir()


def test_a_kill_between_the_two_renames_is_repaired(artifact: Artifact) -> None:
    _cut_between_the_renames(artifact)
    assert artifact.manifest() is None
    made = artifact.make(IDENTITY, _must_not_run)
    assert made.reused
    assert (artifact.folder / "result.txt").read_text() == "result"
    assert artifact.require().identity == IDENTITY


def test_a_kill_between_the_renames_does_not_hide_a_change(artifact: Artifact) -> None:
    _cut_between_the_renames(artifact)
    made = artifact.make({"seed": 2}, _work)
    assert not made.reused
    assert artifact.require().identity == {"seed": 2}
    left = {path.name for path in artifact.folder.parent.iterdir()}
    assert left == {"42", ".42.lock"}


def test_a_kill_while_the_manifest_is_written_is_repaired(artifact: Artifact) -> None:
    artifact.make(IDENTITY, _work)
    os.replace(artifact.folder, artifact.partial)
    os.replace(artifact.partial / MANIFEST, artifact.partial / f"{MANIFEST}.part")
    assert not artifact.make(IDENTITY, _work).reused
    assert {path.name for path in artifact.folder.iterdir()} == {"result.txt", MANIFEST}


@pytest.mark.parametrize("name", [MANIFEST, ".identity.json"])
@pytest.mark.parametrize("content", ["", '{"seed"', "null", "[]"])
def test_what_a_crash_cut_off_in_the_partial_folder_blocks_nothing(
    artifact: Artifact, name: str, content: str
) -> None:
    artifact.partial.mkdir(parents=True)
    (artifact.partial / name).write_text(content)
    assert not artifact.make(IDENTITY, _work).reused
    assert {path.name for path in artifact.folder.iterdir()} == {"result.txt", MANIFEST}
    assert not artifact.partial.exists()


def test_the_manifest_is_on_the_disk_before_the_folder_moves(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def moved(source: Path, target: Path) -> None:
        done.append(f"move {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved)
    artifact.make(IDENTITY, _work)
    assert done[1:] == [
        f"sync {MANIFEST}.part", f"move {MANIFEST}", "sync .42.partial", "move 42", "sync ratio",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_read(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    artifact.make(IDENTITY, _work)
    opened = Path.open

    def refuse(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if mode[0] in "aw":
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert artifact.make(IDENTITY, _must_not_run).reused
    with pytest.raises(BadInput, match=r"BACKDOOR_DATA") as caught:
        artifact.make({"seed": 2}, _must_not_run)
    assert str(caught.value).startswith(f"{artifact.folder}: ")
    assert ("the disk is full" in str(caught.value)) == (number == errno.ENOSPC)
    assert artifact.require().identity == IDENTITY


def test_a_forced_remake_killed_before_its_rename_is_moved_in_and_not_made_twice(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact.make(IDENTITY, _work)

    def remake(folder: Path) -> dict[str, Any]:
        (folder / "result.txt").write_text("remade")
        return {}

    def killed(_: Artifact) -> None:
        raise KeyboardInterrupt

    request_remake([artifact])
    with monkeypatch.context() as patch:
        patch.setattr(Artifact, "_swap", killed)
        with pytest.raises(KeyboardInterrupt):
            artifact.make(IDENTITY, remake)
    assert (artifact.folder / "result.txt").read_text() == "result"
    request_remake([artifact])  # the same forced run again
    assert artifact.make(IDENTITY, _must_not_run).reused
    assert (artifact.folder / "result.txt").read_text() == "remade"
    assert not artifact.remake_requested


def test_a_full_disk_is_reported_and_loses_nothing(artifact: Artifact) -> None:
    artifact.make(IDENTITY, _work)
    command = [sys.executable, "-c", FULL, str(artifact.folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{artifact.folder}: the disk is full")
    for words in ("Nothing that was finished is lost", "BACKDOOR_DATA", "run the same command"):
        assert words in said
    assert artifact.make(IDENTITY, _must_not_run).reused  # the one of before

    def work(folder: Path) -> dict[str, Any]:
        return {"small": (folder / "small").read_text()}

    assert artifact.make({"seed": 2}, work).manifest.summary == {"small": "kept"}
