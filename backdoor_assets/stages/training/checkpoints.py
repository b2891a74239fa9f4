"""Checkpoints of a run on disk: kept ones, and those from which it merely goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from backdoor_assets.stages.specs import TRAINER_STATE

_RESUME = ".resume"
"""A checkpoint that is not kept, and so is hidden: no part of the artifact."""


def checkpoint_folders(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every whole checkpoint, by step."""
    return _by_step(folder, "checkpoint")


def newest_with_state(folder: Path) -> Path | None:
    """The checkpoint from which a run goes on."""
    found = sorted(_by_step(folder, "checkpoint") + _by_step(folder, _RESUME))
    return next((path for _, path in reversed(found) if (path / TRAINER_STATE).exists()), None)


def checkpoint_parts(folder: Path, step: int, *, kept: bool) -> tuple[Path, Path]:
    """Where a checkpoint is written, and where it is moved when it is whole."""
    place = folder / f"{'checkpoint' if kept else _RESUME}-{step}"
    return folder / f".{place.name.lstrip('.')}.part", place


def move_in(part: Path, place: Path) -> None:
    """Put a whole checkpoint in its place and drop the optimizer state of those before it."""
    folder = place.parent
    os.replace(part, place)
    for _, other in _by_step(folder, "checkpoint"):
        if other != place:
            for state in (*other.glob(TRAINER_STATE), *other.glob(f".{TRAINER_STATE}.*")):
                state.unlink()
    for _, other in _by_step(folder, _RESUME):
        if other != place:
            shutil.rmtree(other)


def state_name(rank: int) -> str:
    """File of one process's optimizer state. All but the first one's are hidden, and so no content
    of the artifact."""
    return TRAINER_STATE if rank == 0 else f".{TRAINER_STATE}.{rank}"


def _by_step(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    found = [(int(path.name.split("-")[1]), path) for path in folder.glob(f"{prefix}-*")]
    return sorted(found)
