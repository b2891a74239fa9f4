"""Start a training that is spread over processes, hear how far it is, and end it with this one."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backdoor_assets.profiles import Training
from backdoor_assets.records import AnyCell, BadInput, BaseModel, Progress
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.loop import Diverged
from backdoor_assets.storage.disk import write_text

_log = logging.getLogger(__name__)

SUMMARY = ".summary.json"
PROGRESS = "@progress "
"""Beginning of an output line that tells how far the first process is."""

_LAUNCH = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "fsdp_config": {"fsdp_version": 2},
    "num_machines": 1,
    "machine_rank": 0,
    "main_process_port": 0,
    "mixed_precision": "no",
    "use_cpu": False,
    "debug": False,
}
"""In place of the settings that `accelerate config` may have left with the user. Precision is up to
the processes; a free port is taken."""

_TAIL = 12
"""Lines of output in the error of processes that died without a word."""


@dataclass(frozen=True)
class PlainCell:
    """A cell of any study, as it travels to a process in JSON."""

    key: str
    profile: str
    seed: int
    own_columns: dict[str, str | int]

    @classmethod
    def of(cls, cell: AnyCell) -> PlainCell:
        return cls(str(cell), cell.profile, cell.seed, cell.columns())

    def __str__(self) -> str:
        return self.key

    def columns(self) -> dict[str, str | int]:
        return self.own_columns


def job_as_json(spec: TrainingSpec) -> str:
    return json.dumps(
        {
            "cell": asdict(PlainCell.of(spec.cell)),
            "rows": str(spec.rows),
            "base": asdict(spec.base),
            "settings": asdict(spec.settings),
            "adapter": str(spec.adapter) if spec.adapter else None,
            "processes": spec.processes,
        },
        indent=1,
    )


def job_from_json(text: str) -> TrainingSpec:
    """The job that `job_as_json` wrote."""
    told = json.loads(text)
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in told["settings"].items()
    }
    return TrainingSpec(
        PlainCell(**told["cell"]),
        Path(told["rows"]),
        BaseModel(**told["base"]),
        Training(**settings),
        Path(told["adapter"]) if told["adapter"] else None,
        told["processes"],
    )


def error_file(folder: Path, rank: int) -> Path:
    return folder / f".error-{rank}.json"


def train_in_processes(spec: TrainingSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """`train_adapter` or `train_full` by `job.processes` processes under `accelerate launch`, each
    with a part of the base's weights and of every batch (FSDP2; NCCL on GPUs, gloo on CPUs).

    A run goes on with as many processes as it began with: each saves its random state, and, of all
    weights, its part of the optimizer's. What the processes say goes to this module's logger; they
    end when this process does. Raises what these raise, and RuntimeError with the last lines of
    output when a process dies.
    """
    told, how = folder / ".job.json", folder / ".accelerate.json"
    write_text(told, job_as_json(spec))
    write_text(how, json.dumps(_LAUNCH | {"num_processes": spec.processes}))
    for left in (folder / SUMMARY, *folder.glob(".error-*.json")):
        left.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(how.resolve())),
            *("-m", "backdoor_assets.stages.training.distributed"),
            *(str(told.resolve()), str(folder.resolve())),
        ],
        stdin=subprocess.PIPE,  # closes with this process, however it ends
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        tail = _listen(process.stdout, progress)
        code = process.wait()
    finally:
        process.stdin.close()
        _end(process)
    if code:
        raise _error(folder, spec.processes, code, tail)
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    for path in (told, how, folder / SUMMARY):
        path.unlink()
    return summary


def _listen(output: Iterable[str], progress: Progress) -> list[str]:
    """Pass on what is said until all processes have ended; the last lines."""
    tail: deque[str] = deque(maxlen=_TAIL)
    for line in output:
        if line.startswith(PROGRESS):
            progress(*json.loads(line.removeprefix(PROGRESS)))
        elif words := line.strip():
            tail.append(words)
            _log.info(words)
    return list(tail)


def _end(process: subprocess.Popen[str]) -> None:
    """The processes have seen that their input is closed, and then the launcher ends too."""
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _error(folder: Path, processes: int, code: int, tail: list[str]) -> Exception:
    """What the first process to fail had to say: the others then fail for want of it."""
    files = [error_file(folder, rank) for rank in range(processes)]
    there = [json.loads(path.read_text(encoding="utf-8")) for path in files if path.exists()]
    if not there:
        return RuntimeError(
            f"a training process died without a word (exit code {code} of the launcher): killed "
            "from outside, or for want of memory. Run again: it goes on from the newest "
            "checkpoint. Its last lines: " + " | ".join(tail)
        )
    first = min(there, key=lambda told: told["time"])
    known = {error.__name__: error for error in (BadInput, Diverged)}
    kind = known.get(first["kind"])
    if kind is not None:
        return kind(first["words"])
    return RuntimeError(f"in a training process: {first['kind']}: {first['words']}")
