"""Fine-tune a causal LM on chat rows: a LoRA adapter (`adapters`) or all weights (`full`), in one
process or spread over several (`launching`, `distributed`).

A run that was interrupted resumes from its newest checkpoint; on a CPU the result is the same to
the bit. Importing this package is cheap: torch is imported when training starts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from backdoor_assets.models.loading import forget_base
from backdoor_assets.records import Progress, no_progress
from backdoor_assets.stages.specs import TRAINER_STATE, TrainingSpec
from backdoor_assets.stages.training.texts import check_trainable

__all__ = ["train"]


def train(spec: TrainingSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Train one cell as its settings say, and return a summary.

    Calls `train_adapter` for LoRA and `train_full` for all weights. If the spec asks for more than
    one process, they run it together under `accelerate launch`. Raises what these functions raise.
    """
    check_trainable(spec)
    if spec.fresh:
        from backdoor_assets.stages.training.merging import merged_start, name_start

        summary = _train(merged_start(spec, folder), folder, progress)
        name_start(folder)
    else:
        summary = _train(spec, folder, progress)
    if spec.earlier:
        _keep_earlier(spec.earlier, folder)
    return summary


def _keep_earlier(earlier: Path, folder: Path) -> None:
    """Put the checkpoints of a finished training of the same recipe in place of their repetitions,
    which differ where a GPU does not compute to the bit: what was made of them stays valid."""
    for checkpoint in folder.glob("checkpoint-*"):
        before = earlier / checkpoint.name
        for file in before.iterdir() if before.is_dir() else ():
            if file.name != TRAINER_STATE:
                shutil.copy2(file, checkpoint / file.name)


def _train(spec: TrainingSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    full = spec.settings.method == "full"
    if spec.processes > 1 or spec.settings.offload:
        from backdoor_assets.stages.training.launching import train_in_processes
        from backdoor_assets.stages.training.merging import merged_whole

        # An earlier spec may have left a base in this process; the others need its memory.
        forget_base()
        if full and spec.adapter:
            with merged_whole(spec, folder) as merged:
                return train_in_processes(merged, folder, progress)
        return train_in_processes(spec, folder, progress)
    if not full:
        from backdoor_assets.stages.training.adapters import train_adapter

        return train_adapter(spec, folder, progress)
    from backdoor_assets.stages.training.full import train_full

    return train_full(spec, folder, progress)
