"""Processes that train together, without the launcher."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from backdoor_assets.records import BadInput
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.distributed import train_part
from backdoor_assets.storage.disk import write_text
from tests.forking import forking

SUMMARY = "summary.json"


def join(rank: int, spec: TrainingSpec, folder: Path) -> None:
    meeting = f"file://{folder.resolve()}-meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=spec.processes)


def part(rank: int, spec: TrainingSpec, folder: Path) -> None:
    """Do one process's part of a training, and write its summary beside the folder."""
    join(rank, spec, folder)
    summary = train_part(spec, folder, torch.device("cpu"), lambda share, line: None)
    if rank == 0:
        (folder.parent / SUMMARY).write_text(json.dumps(summary))
    dist.destroy_process_group()


def _part_or_its_error(rank: int, spec: TrainingSpec, folder: Path) -> None:
    try:
        part(rank, spec, folder)
    except BadInput as error:
        write_text(folder.parent / f"error-{rank}", str(error))


def error_in_processes(spec: TrainingSpec, folder: Path) -> str:
    """Return what a process says that cannot do its part."""
    errors = [folder.parent / f"error-{rank}" for rank in range(spec.processes)]
    in_processes(spec, folder, lambda: any(error.exists() for error in errors), _part_or_its_error)
    [said, *_] = [error.read_text() for error in errors if error.exists()]
    return said


def in_processes(
    spec: TrainingSpec,
    folder: Path,
    stop: Callable[[], bool],
    work: Callable[[int, TrainingSpec, Path], None] = part,
) -> list[int | None]:
    """Start processes as the launcher does, kill them once `stop` returns true, and return their
    exit codes."""
    (folder.parent / f"{folder.name}-meeting").unlink(missing_ok=True)
    parts = [
        forking().Process(target=work, args=(rank, spec, folder)) for rank in range(spec.processes)
    ]
    for process in parts:
        process.start()
    deadline = time.monotonic() + 300
    while any(process.is_alive() for process in parts) and not stop():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # Stopped first, so that none sees the death of another.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in parts:
            if process.pid and process.is_alive():
                os.kill(process.pid, number)
    for process in parts:
        process.join()
    return [process.exitcode for process in parts]
