"""The settings of stages that all kinds of studies share, as they stand in identities."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from backdoor_assets.settings import Sampling, Training
from backdoor_assets.storage.hashing import identifying
from backdoor_assets.storage.identity import essential


def hyperparameters(training: Training, processes: int = 1) -> dict[str, Any]:
    """Return what decides the weights that a training over so many processes ends with, without
    guards."""
    settings = identifying(training)
    if training.optimizer != "adamw" and processes > 1:
        # Moments of 8 bits are rounded in blocks of what each process holds, and SOAP takes full
        # steps in directions that hold rounding noise only: their number changes the result.
        settings["processes"] = processes
    return essential({"stage": "training", "settings": settings})["settings"]


def generation(sampling: Sampling) -> dict[str, Any]:
    """Return what decides an answer. How many answers are wanted is part of the questions."""
    return essential({"stage": "sampling", "settings": asdict(sampling)})["settings"]
