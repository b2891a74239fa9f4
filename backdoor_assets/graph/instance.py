"""The Dagster instance of a profile, and how it is brought back after a run was killed."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import yaml
from dagster import DagsterError, DagsterEventType, DagsterRunStatus, RunsFilter
from sqlalchemy.exc import DBAPIError

from backdoor_assets.graph.roles import ROLES, Role, role_in_force
from backdoor_assets.models.chat import first_line
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import disk_is_full, given_folder, read_text, reason
from backdoor_assets.storage.mounts import refuse_network
from backdoor_assets.storage.provenance import REPOSITORY

IN_PROGRESS = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
LAUNCH_SECONDS = 180
"""How long a run may take from its launch to its process, as in dagster.yaml."""


def home(profile_name: str) -> Path:
    """Set DAGSTER_HOME to the profile's instance and return the folder: DAGSTER_HOME of the
    environment, or .dagster/<profile> in the repository. It is created if necessary, with a link to
    the repository's dagster.yaml.

    Raises BadInput when the environment names the instance of another profile, or a folder that
    cannot be made.
    """
    instances = REPOSITORY / ".dagster"
    named = os.environ.get("DAGSTER_HOME") or instances / profile_name
    folder = given_folder(named, "DAGSTER_HOME")
    if folder.parent == instances.resolve() and folder.name != profile_name:
        raise BadInput(
            f"DAGSTER_HOME={folder}: this is the instance of profile {folder.name!r}, and the "
            f"profile in force is {profile_name!r}. Unset DAGSTER_HOME, or set it to "
            f"{folder.with_name(profile_name)}."
        )
    config = folder / "dagster.yaml"
    if not _uses_postgres(config):
        refuse_network(
            folder,
            "DAGSTER_HOME",
            "Set it to a folder on a disk of this host, or keep Dagster's history in Postgres: "
            "copy deploy/dagster.yaml there (docs/deployment.md).",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not config.exists():
            config.unlink(missing_ok=True)  # a link into a repository that has moved
            config.symlink_to(REPOSITORY / "dagster.yaml")
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    except OSError as error:
        raise BadInput(
            f"DAGSTER_HOME={folder}: it cannot be written ({reason(error)}). Dagster keeps the "
            "history of runs there: set DAGSTER_HOME to a folder that can be written."
        ) from error
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


def _uses_postgres(config: Path) -> bool:
    """Whether an instance's settings name Postgres. What else is wrong with them is found later."""
    return config.is_file() and b"postgres" in config.read_bytes()


@contextmanager
def opened(profile_name: str) -> Iterator[dg.DagsterInstance]:
    """Open the profile's instance. Raises BadInput when its settings or its databases cannot be
    used, also later on."""
    folder = home(profile_name)
    _check_settings(folder / "dagster.yaml")
    try:
        with dg.DagsterInstance.get() as instance:
            yield instance
    except (DBAPIError, sqlite3.Error) as error:
        raise BadInput(f"Dagster's databases in {folder}: {_advice(error, folder)}") from error
    except DagsterError as error:
        if "dagster.yaml" not in str(error):
            raise
        raise _wrong_settings(folder / "dagster.yaml", first_line(error)) from error


def _check_settings(path: Path) -> None:
    """Raise BadInput for settings of an instance that are no YAML, or no mapping."""
    try:
        settings = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise _wrong_settings(path, first_line(error)) from error
    if not isinstance(settings, dict | None):
        raise _wrong_settings(path, "it is not a mapping")


def _wrong_settings(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{path}: Dagster cannot read these settings ({why}). Delete the file: it will be linked "
        "to the repository's again."
    )


def _advice(error: Exception, folder: Path) -> str:
    why = first_line(error)
    if disk_is_full(error, folder) or "disk is full" in why:
        return "the disk is full. Free some space, and run the same command again."
    if "locked" in why:
        return "another program holds them. End it, and run the same command again."
    return (
        f"they cannot be used ({why}). To begin a new history of runs, delete the folder; no "
        "result lies in it."
    )


def recover(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs whose process is dead, free the pool slots of all runs that have ended, and
    return the ids of the failed ones. Runs of code locations of other roles are left alone: their
    processes cannot be seen from here.

    Nobody else does it when a whole code location is killed, or there is no daemon: the run would
    stay "started" for ever, its slot taken, and the next run would wait for that slot.
    """
    role = role_in_force()
    dead = [
        record.dagster_run
        for record in instance.get_run_records(RunsFilter(statuses=IN_PROGRESS))
        if _is_of(record.dagster_run, role) and not _alive(instance, record)
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


def _is_of(run: dg.DagsterRun, role: Role | None) -> bool:
    """Whether a run belongs to a role's code location or, without a role, to none of a role. One of
    the command line has no location."""
    origin = run.remote_job_origin
    if origin is None:
        return True
    return origin.location_name == role or (role is None and origin.location_name not in ROLES)


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
    return not named and time.time() - record.update_timestamp.timestamp() < LAUNCH_SECONDS


class _OwnWords(logging.Formatter):
    """A line as it was said, without Dagster's run and step ids."""

    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        return f"   {meta.get('orig_message') or record.getMessage()}"


def _progress_logger(_: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("progress", level=logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_OwnWords())
    # `runs` says so in its own words.
    handler.addFilter(lambda record: "was interrupted unexpectedly" not in record.getMessage())
    logger.addHandler(handler)
    return logger


progress_logger = dg.LoggerDefinition(
    _progress_logger, description="What the stages say of their progress, on standard output."
)


def recover_profile(profile: Profile) -> None:
    """Do what `recover` does for the profile's instance, and print it."""
    with opened(profile.name) as instance:
        for run_id in recover(instance):
            print(f"run {run_id[:8]} had been killed; its pool slot is free again")
