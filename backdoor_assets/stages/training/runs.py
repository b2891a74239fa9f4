"""Run the training loop from the first step, or from the newest checkpoint, to the last step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.credentials import check_keys, told
from backdoor_assets.models.chat import TrainingText
from backdoor_assets.records import BadInput, Progress
from backdoor_assets.settings import planned_steps, saved_steps
from backdoor_assets.stages.specs import TRAINING_LOG, TrainingSpec
from backdoor_assets.stages.training.checkpoints import checkpoint_folders
from backdoor_assets.stages.training.loop import Batch, Loop
from backdoor_assets.stages.training.packing import count_sequences, micro_batches, packed_batches

REPORT_SECONDS = 5.0
"""Between two reports of progress. The process that logs them leaves out those that come within
10 s of a line, so that at most 15 s pass between two lines, unless a step takes longer."""


def run_steps(texts: Sequence[TrainingText], spec: TrainingSpec) -> int:
    """Return the number of optimizer steps of the whole run."""
    return planned_steps(spec.settings, count_sequences(texts, spec.settings))


def run(
    loop: Loop, texts: Sequence[TrainingText], spec: TrainingSpec, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Train to the last step, resuming from the newest checkpoint in `folder`.

    Writes the training log into `folder` and returns the summary.
    """
    wandb_run = None
    try:
        loop.resume(folder)
        if loop.rank == 0:
            wandb_run = _start_wandb(spec, loop.steps)
        _train(loop, texts, spec, folder, progress, wandb_run)
    finally:
        if wandb_run is not None:
            with _wandb_errors():
                wandb_run.finish()
    table = pd.DataFrame(loop.log)
    for position, (name, value) in enumerate(spec.cell.columns().items()):
        table.insert(position, name, value)
    if loop.rank == 0:
        table.to_parquet(folder / TRAINING_LOG, index=False)
    packed = {"sequences": count_sequences(texts, spec.settings)} if spec.settings.packing else {}
    return {
        "rows": len(texts),
        **packed,
        "steps": loop.steps,
        "checkpoints": len(checkpoint_folders(folder)),
        "first_loss": loop.log[0]["loss"],
        "final_loss": loop.log[-1]["loss"],
        "tokens": int(table["tokens"].sum()),
        "trainable_parameters": loop.trainable,
    }


def _train(
    loop: Loop,
    texts: Sequence[TrainingText],
    spec: TrainingSpec,
    folder: Path,
    progress: Progress,
    wandb_run: Any,
) -> None:
    settings, done = spec.settings, len(loop.log)
    batches = packed_batches if settings.packing else micro_batches
    stream: Iterator[Batch] = batches(texts, settings, spec.cell.seed)
    for _ in range(done * settings.gradient_accumulation):
        next(stream)
    kept = set(saved_steps(settings, loop.steps))
    started = time.monotonic()
    reported = -math.inf  # The first step is reported.
    for step in range(done + 1, loop.steps + 1):
        entry = loop.step([next(stream) for _ in range(settings.gradient_accumulation)])
        if wandb_run is not None:
            with _wandb_errors():
                wandb_run.log(entry, step=step)
        if step in kept or step % settings.save_steps == 0:
            loop.save(folder, kept=step in kept)
            reported = -math.inf
        now = time.monotonic()
        if now - reported >= REPORT_SECONDS:
            reported = now
            progress(
                step / loop.steps,
                f"step {step}/{loop.steps}, loss {entry['loss']:.3f}, "
                f"{(now - started) / (step - done):.2f} s per step",
            )


def _start_wandb(spec: TrainingSpec, steps: int) -> Any:
    """Start a Weights & Biases run if WANDB_API_KEY is set; return None if it is not."""
    if not os.environ.get("WANDB_API_KEY"):
        return None
    check_keys()
    try:
        import wandb
    except ImportError as error:
        raise BadInput(
            "WANDB_API_KEY is set but wandb is not installed: pip install -e '.[wandb]', "
            "or unset the variable."
        ) from error
    with _wandb_errors():
        return wandb.init(
            project="backdoor_assets",
            name=str(spec.cell),
            group=spec.cell.profile,
            config={**spec.cell.columns(), **vars(spec.settings), "steps": steps},
        )


@contextmanager
def _wandb_errors() -> Iterator[None]:
    """Raise what Weights & Biases raises as BadInput without secrets: a server's reply, which may
    repeat the key, is part of its errors."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  any error of wandb or below it may hold the key
        raise BadInput(
            f"Weights & Biases failed ({told(error)}). Check WANDB_API_KEY and the network; set "
            "WANDB_MODE=offline to log to this machine, or unset WANDB_API_KEY. Then run again: "
            "checkpoints are kept."
        ) from None
