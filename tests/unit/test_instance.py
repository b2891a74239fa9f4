"""A killed run gives its pool slot back, and a run that lives keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from backdoor_assets.graph import instance as under_test
from backdoor_assets.graph.instance import home, recover
from backdoor_assets.records import BadInput
from backdoor_assets.storage.provenance import REPOSITORY

HOLDER = """
import sys, time
import dagster as dg

@dg.asset(pool="gpu")
def slow():
    print("running", flush=True)
    time.sleep(120)

defs = dg.Definitions([slow], executor=dg.in_process_executor)
with dg.DagsterInstance.get() as instance:
    defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
"""


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a run that holds the slot of pool `gpu`."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    home("tiny")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    yield process
    process.kill()
    process.wait()


def slots() -> int:
    with dg.DagsterInstance.get() as instance:
        return instance.event_log_storage.get_concurrency_info("gpu").active_slot_count


def test_a_living_run_is_left_alone_and_a_killed_one_frees_its_slot(
    held: subprocess.Popen[str],
) -> None:
    with dg.DagsterInstance.get() as instance:
        [run] = instance.get_runs()
        assert recover(instance) == []
        assert slots() == 1
        held.kill()
        held.wait()
        assert recover(instance) == [run.run_id]
        assert slots() == 0
        ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == dg.DagsterRunStatus.FAILURE


def test_a_run_that_was_just_launched_is_given_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it had waited in the queue."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    home("tiny")
    spec = dg.GraphDefinition("launched").to_job()
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(spec, status=dg.DagsterRunStatus.NOT_STARTED)
        waited = instance.get_run_records()[0].create_timestamp - timedelta(hours=2)
        storage = instance.run_storage
        assert isinstance(storage, SqlRunStorage)
        with storage.connect() as store:
            store.execute(RunsTable.update().values(create_timestamp=waited))
        launched = dg.DagsterEvent(
            dg.DagsterEventType.PIPELINE_STARTING.value, run.job_name, message="launched"
        )
        instance.report_dagster_event(launched, run.run_id)
        assert recover(instance) == []
        monkeypatch.setattr(under_test, "LAUNCH_SECONDS", 0)
        assert recover(instance) == [run.run_id]


def test_each_instance_has_the_repositorys_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "new"))
    home("tiny")
    with dg.DagsterInstance.get() as instance:
        assert instance.telemetry_enabled is False
        assert instance.get_settings("nux") == {"enabled": False}
        assert instance.run_monitoring_enabled


def test_the_instance_of_another_profile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "REPOSITORY", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".dagster" / "miniature"))
    with pytest.raises(BadInput, match=r"the instance of profile 'miniature'.*'qwen3-8b'"):
        home("qwen3-8b")
    assert home("miniature") == tmp_path / ".dagster" / "miniature"


def test_a_link_into_a_repository_that_has_moved_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").symlink_to(tmp_path / "old" / "dagster.yaml")
    home("tiny")
    assert (tmp_path / "dagster.yaml").read_text() == (REPOSITORY / "dagster.yaml").read_text()
