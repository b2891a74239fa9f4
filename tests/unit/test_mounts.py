"""SQLite is refused on file systems of a network; a stand-in for the kernel's list says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from backdoor_assets.claude.store import Store
from backdoor_assets.graph.instance import home
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import BadInput
from backdoor_assets.storage import mounts
from backdoor_assets.studies.birds.study import STUDY as BIRDS


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is said to lie on NFS, with a local disk mounted in it."""
    folder = tmp_path / "lab files"
    (folder / "scratch").mkdir(parents=True)
    escaped = str(folder).replace(" ", "\\040")
    table = tmp_path / "mountinfo"
    table.write_text(
        "21 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"30 21 0:40 / {escaped} rw - nfs4 server:/lab rw,vers=4.2\n"
        f"31 30 253:1 / {escaped}/scratch rw - xfs /dev/vdb rw\n"
    )
    monkeypatch.setattr(mounts, "MOUNTS", table)
    return folder


def test_the_innermost_file_system_counts(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mounts.network_type(shared) == "nfs4"
    assert mounts.network_type(shared / "not" / "there" / "yet") == "nfs4"
    assert mounts.network_type(shared / "scratch" / "data") is None
    assert mounts.network_type(shared.parent) is None
    monkeypatch.setattr(mounts, "MOUNTS", shared / "none")  # not Linux
    assert mounts.network_type(shared) is None


def test_verdicts_on_a_network_are_refused_and_go_where_the_variable_says(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(shared / "data"))
    grid = Grid.of(BIRDS, MINIATURE)
    with pytest.raises(BadInput, match=r"(?s)lab files.*nfs4.*BACKDOOR_VERDICTS"):
        Store(grid.verdicts)
    assert not (shared / "data").exists()
    monkeypatch.setenv("BACKDOOR_VERDICTS", str(shared / "scratch"))
    assert grid.verdicts == shared / "scratch" / "miniature" / "birds"
    Store(grid.verdicts).put("key", {}, "model", (1, 1), 0.0, final=True)
    assert (grid.verdicts / "verdicts.sqlite").exists()


def test_dagsters_sqlite_on_a_network_is_refused_unless_it_uses_postgres(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(shared / "home"))
    with pytest.raises(BadInput, match=r"(?s)DAGSTER_HOME.*nfs4.*deploy/dagster.yaml"):
        home("miniature")
    (shared / "home").mkdir()
    (shared / "home" / "dagster.yaml").write_text("storage:\n  postgres:\n    postgres_db: {}\n")
    assert home("miniature") == shared / "home"
