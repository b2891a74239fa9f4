"""Fine-tuning of a causal LM on chat rows, resumable to the bit on CPU: LoRA (`adapters`) or all
weights (`full`), in one process, or spread over several (`launching`, `distributed`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backdoor_assets.models.loading import forget_base
from backdoor_assets.records import Progress, no_progress
from backdoor_assets.settings import planned_steps
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.adapters import train_adapter
from backdoor_assets.stages.training.checkpoints import checkpoint_folders
from backdoor_assets.stages.training.full import train_full
from backdoor_assets.stages.training.launching import train_in_processes
from backdoor_assets.stages.training.loop import Diverged
from backdoor_assets.stages.training.packing import micro_batches as _micro_batches
from backdoor_assets.stages.training.texts import check_trainable

__all__ = [
    "Diverged",
    "_micro_batches",
    "check_trainable",
    "checkpoint_folders",
    "planned_steps",
    "train",
    "train_adapter",
]


def train(spec: TrainingSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Train one cell as its settings say, and return a summary: `train_adapter` for LoRA,
    `train_full` for all weights, under `accelerate launch` where the job asks for more than one
    process. Raises what these raise."""
    check_trainable(spec)
    if spec.processes > 1:
        forget_base()  # of an earlier job of this process: the others need the room
        return train_in_processes(spec, folder, progress)
    train_alone = train_adapter if spec.settings.method == "lora" else train_full
    return train_alone(spec, folder, progress)
