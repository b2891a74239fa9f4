"""Checkpoints of a run on disk: those that are kept, and those that only serve to resume it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from backdoor_assets.stages.specs import TRAINER_STATE

_RESUME = ".resume"
"""Prefix of a checkpoint that is not kept. It is hidden, so that it is no part of the artifact."""


def checkpoint_folders(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of every complete checkpoint that is kept, by step."""
    return _by_step(folder, "checkpoint")


def newest_with_state(folder: Path) -> Path | None:
    """Return the newest checkpoint with optimizer state, from which a run resumes."""
    found = sorted(_by_step(folder, "checkpoint") + _by_step(folder, _RESUME))
    return next((path for _, path in reversed(found) if (path / TRAINER_STATE).exists()), None)


def checkpoint_paths(folder: Path, step: int, *, kept: bool) -> tuple[Path, Path]:
    """Return the folder that a checkpoint is written to, and its final one."""
    final = folder / f"{'checkpoint' if kept else _RESUME}-{step}"
    return folder / f".{final.name.lstrip('.')}.part", final


def move_into_place(temporary: Path, final: Path) -> None:
    """Move a complete checkpoint to its final folder and delete the optimizer state of older
    ones."""
    folder = final.parent
    os.replace(temporary, final)
    for _, other in _by_step(folder, "checkpoint"):
        if other != final:
            for state in (*other.glob(TRAINER_STATE), *other.glob(f".{TRAINER_STATE}.*")):
                state.unlink()
    for _, other in _by_step(folder, _RESUME):
        if other != final:
            shutil.rmtree(other)


def state_name(rank: int) -> str:
    """Return the file name of one process's optimizer state.

    The files of all ranks but the first are hidden, so that they are no part of the artifact.
    """
    return TRAINER_STATE if rank == 0 else f".{TRAINER_STATE}.{rank}"


def saved_processes(checkpoint: Path) -> int:
    """Return how many processes saved a checkpoint."""
    return sum(1 for _ in checkpoint.glob(f"*{TRAINER_STATE}*"))


def _by_step(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    found = [(int(path.name.split("-")[1]), path) for path in folder.glob(f"{prefix}-*")]
    return sorted(found)
