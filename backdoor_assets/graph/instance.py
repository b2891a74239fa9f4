"""The Dagster instance of a profile, and how it is brought back after a run was killed."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.storage.provenance import REPOSITORY

IN_PROGRESS = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
LAUNCH_SECONDS = 180
"""How long a run may take from its launch to its process, as in dagster.yaml."""


def home(profile_name: str) -> Path:
    """Set DAGSTER_HOME to the profile's instance and return the folder: DAGSTER_HOME of the
    environment, or .dagster/<profile> in the repository. It is created if necessary, with a link to
    the repository's dagster.yaml.

    Raises BadInput when the environment names the instance of another profile.
    """
    instances = REPOSITORY / ".dagster"
    folder = Path(os.environ.get("DAGSTER_HOME") or instances / profile_name)
    folder = folder.expanduser().resolve()
    if folder.parent == instances.resolve() and folder.name != profile_name:
        raise BadInput(
            f"DAGSTER_HOME={folder}: this is the instance of profile {folder.name!r}, and the "
            f"profile in force is {profile_name!r}. Unset DAGSTER_HOME, or set it to "
            f"{folder.with_name(profile_name)}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "dagster.yaml"
    if not config.exists():
        config.unlink(missing_ok=True)  # a link into a repository that has moved
        config.symlink_to(REPOSITORY / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


def recover(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs whose process is dead, free the pool slots of all runs that have ended, and
    return the ids of the failed ones.

    Without a daemon nobody else does: a killed run would stay "started" for ever, its slot taken,
    and the next run would wait for that slot.
    """
    dead = [
        record.dagster_run
        for record in instance.get_run_records(RunsFilter(statuses=IN_PROGRESS))
        if not _alive(instance, record)
    ]
    for run in dead:
        instance.report_run_failed(run, "The process of this run is gone: it was killed.")
    store = instance.event_log_storage
    if store.supports_global_concurrency_limits:
        for key in store.get_concurrency_keys():
            info = store.get_concurrency_info(key)
            for run_id in info.active_run_ids | info.pending_run_ids | info.assigned_run_ids:
                run = instance.get_run_by_id(run_id)
                if run is None or run.is_finished:
                    store.free_concurrency_slots_for_run(run_id)
    return [run.run_id for run in dead]


def _alive(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether the process that a run named when it began is still that process. A run that has just
    been launched has not named one yet."""
    run_id, named = record.dagster_run.run_id, False
    for event in instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT):
        pid = event.get_dagster_event().engine_event_data.metadata.get("pid")
        if pid is None or pid.value is None:
            continue
        named = True
        try:
            born = psutil.Process(int(str(pid.value))).create_time()
        except psutil.NoSuchProcess:
            continue
        if born <= event.timestamp + 1:
            return True
    return not named and time.time() - record.create_timestamp.timestamp() < LAUNCH_SECONDS


class _OwnWords(logging.Formatter):
    """A line as it was said, without Dagster's run and step ids."""

    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        return f"   {meta.get('orig_message') or record.getMessage()}"


def _progress_logger(_: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("progress", level=logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_OwnWords())
    logger.addHandler(handler)
    return logger


progress_logger = dg.LoggerDefinition(
    _progress_logger, description="What the stages say of their progress, on standard output."
)


def recover_profile(profile: Profile) -> None:
    """Do what `recover` does for the profile's instance, and print it."""
    home(profile.name)
    with dg.DagsterInstance.get() as instance:
        for run_id in recover(instance):
            print(f"run {run_id[:8]} had been killed; its pool slot is free again")
