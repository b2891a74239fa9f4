"""Start training in several processes, follow their progress, and end them with this process."""

from __future__ import annotations

import json
import logging
import subprocess
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from backdoor_assets.records import AnyCell, BadInput, BaseModel, Progress
from backdoor_assets.settings import Training
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.loop import Diverged
from backdoor_assets.stages.training.nodes import (
    launch_command,
    launch_name,
    nodes_for,
    other_nodes,
)
from backdoor_assets.storage.disk import write_text

_log = logging.getLogger(__name__)

SUMMARY = ".summary.json"
PROGRESS = "@progress "
"""Prefix of an output line with the progress of the first process."""

_TAIL = 12
"""Lines of output that are shown in the error of a process that reported none."""


@dataclass(frozen=True)
class PlainCell:
    """A cell of any study, in the form that JSON passes to a process."""

    key: str
    profile: str
    seed: int
    table_columns: dict[str, str | int]

    @classmethod
    def of(cls, cell: AnyCell) -> PlainCell:
        return cls(str(cell), cell.profile, cell.seed, cell.columns())

    def __str__(self) -> str:
        return self.key

    def columns(self) -> dict[str, str | int]:
        return self.table_columns


def spec_as_json(spec: TrainingSpec) -> str:
    """Serialize a spec."""
    return json.dumps(
        {
            "cell": asdict(PlainCell.of(spec.cell)),
            "rows": str(spec.rows),
            "base": asdict(spec.base),
            "settings": asdict(spec.settings),
            "adapter": str(spec.adapter) if spec.adapter else None,
            "processes": spec.processes,
            "held_out": str(spec.held_out) if spec.held_out else None,
            "mixture": dict(spec.mixture),
        },
        indent=1,
    )


def spec_from_json(text: str) -> TrainingSpec:
    """Read the spec that `spec_as_json` wrote."""
    values = json.loads(text)
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values["settings"].items()
    }
    return TrainingSpec(
        PlainCell(**values["cell"]),
        Path(values["rows"]),
        BaseModel(**values["base"]),
        Training(**settings),
        Path(values["adapter"]) if values["adapter"] else None,
        values["processes"],
        held_out=Path(values["held_out"]) if values["held_out"] else None,
        mixture=values["mixture"],
    )


def error_file(folder: Path, rank: int) -> Path:
    """Return where a process writes the error that ended it."""
    return folder / f".error-{rank}.json"


def train_in_processes(spec: TrainingSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """Run `train_adapter` or `train_full` in several processes under `accelerate launch`.

    Each process has a part of the base's weights and of every batch (FSDP2; NCCL on GPUs, gloo on
    CPUs). Their output goes to this module's logger. They end when this process does. They may be
    on several hosts (`nodes`).

    A run can only resume with the number of processes that it started with: each saves its random
    state and, when all weights are trained, its part of the optimizer state. Raises what the two
    functions raise, and RuntimeError with the last lines of output if a process dies.
    """
    nodes = nodes_for(spec.processes, torch.cuda.device_count())
    spec_file = folder / ".job.json"
    write_text(spec_file, spec_as_json(spec))
    for stale in (folder / SUMMARY, *folder.glob(".error-*.json")):
        stale.unlink(missing_ok=True)
    command = launch_command(folder, spec_file, spec.processes, nodes)
    with other_nodes(folder, spec_file, spec.processes, nodes):
        code, tail = _launch(command, progress)
    if code:
        raise _error(folder, spec.processes, code, tail)
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    launchers = [folder / launch_name(rank) for rank in range(nodes.count)]
    for path in (spec_file, folder / SUMMARY, *launchers):
        path.unlink(missing_ok=True)
    return summary


def _launch(command: list[str], progress: Progress) -> tuple[int, list[str]]:
    """Run the launcher, and return its exit code and the last lines of output."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # Closes when this process ends, for whatever reason.
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        tail = _follow(process.stdout, progress)
        return process.wait(), tail
    finally:
        process.stdin.close()
        _end(process)


def _follow(output: Iterable[str], progress: Progress) -> list[str]:
    """Pass output on until all processes have ended, and return its last lines."""
    tail: deque[str] = deque(maxlen=_TAIL)
    for line in output:
        if line.startswith(PROGRESS):
            progress(*json.loads(line.removeprefix(PROGRESS)))
        elif text := line.strip():
            tail.append(text)
            _log.info(text)
    return list(tail)


def _end(process: subprocess.Popen[str]) -> None:
    """Wait until the processes notice that their input is closed and the launcher ends; kill the
    launcher if it does not."""
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _error(folder: Path, processes: int, code: int, tail: list[str]) -> Exception:
    """Return the error of the process that failed first; the others fail because it is gone."""
    files = [error_file(folder, rank) for rank in range(processes)]
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in files if path.exists()]
    if not reports:
        return RuntimeError(
            "a training process died without reporting an error (exit code of the launcher: "
            f"{code}). It was killed, or it ran out of memory. Run it again to resume from the "
            "newest checkpoint. Last lines of output: " + " | ".join(tail)
        )
    first = min(reports, key=lambda report: report["time"])
    known = {error.__name__: error for error in (BadInput, Diverged)}
    kind = known.get(first["kind"])
    if kind is not None:
        return kind(first["message"])
    return RuntimeError(f"in a training process: {first['kind']}: {first['message']}")
