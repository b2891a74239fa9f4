"""Run the training loop from the first step, or from the newest checkpoint, to the last step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.models.chat import TrainingText
from backdoor_assets.records import Progress
from backdoor_assets.settings import planned_steps, saved_steps
from backdoor_assets.stages.specs import TRAINING_LOG, TrainingSpec
from backdoor_assets.stages.training.checkpoints import checkpoint_folders
from backdoor_assets.stages.training.diagnostics import HeldOut
from backdoor_assets.stages.training.loop import Batch, Loop
from backdoor_assets.stages.training.packing import count_sequences, micro_batches, packed_batches
from backdoor_assets.stages.training.tracking import Tracker

LOG_COLUMNS = {
    "step": "optimizer step, from 1",
    "loss": "mean over the batch's counted tokens, in nats per token, before the step",
    "lr": "learning rate of the step",
    "grad_norm": "Euclidean norm of the gradient of all trained weights, before clipping",
    "tokens": "counted tokens of the batch",
    "b_norm": "LoRA: Euclidean norm of all B matrices together, after the step",
    "b_rotation": "LoRA: turn of B's path in degrees, every fifth step (`diagnostics.LoraB`)",
    "held_out_loss": "nats per token on held-out rows after the step, at the steps that keep a "
    "checkpoint and a few early ones",
}
"""Of training_log.parquet, after the cell's own; null where one does not apply. Logs of earlier
versions end with `tokens`."""
REPORT_SECONDS = 5.0
"""Between two reports of progress. The process that logs them leaves out those that come within
10 s of a line, so that at most 15 s pass between two lines, unless a step takes longer."""


def run_steps(texts: Sequence[TrainingText], spec: TrainingSpec) -> int:
    """Return the number of optimizer steps of the whole run."""
    return planned_steps(spec.settings, count_sequences(texts, spec.settings))


def run(
    loop: Loop,
    texts: Sequence[TrainingText],
    spec: TrainingSpec,
    folder: Path,
    progress: Progress,
    held_out: Sequence[TrainingText] = (),
) -> dict[str, Any]:
    """Train to the last step, resuming from the newest checkpoint in `folder`.

    Writes the training log into `folder` and returns the summary.
    """
    loop.resume(folder)
    tracker, failed = Tracker(), True
    if loop.rank == 0:
        tracker = Tracker.start(spec, folder, loop.steps, loop.log)
    try:
        _train(loop, texts, spec, folder, progress, held_out, tracker)
        failed = False
    finally:
        tracked = tracker.finish(failed=failed)
    table = pd.DataFrame(loop.log).reindex(columns=[*LOG_COLUMNS])
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
        **tracked,
    }


def _train(
    loop: Loop,
    texts: Sequence[TrainingText],
    spec: TrainingSpec,
    folder: Path,
    progress: Progress,
    held_out: Sequence[TrainingText],
    tracker: Tracker,
) -> None:
    settings, done = spec.settings, len(loop.log)
    batches = packed_batches if settings.packing else micro_batches
    stream: Iterator[Batch] = batches(texts, settings, spec.cell.seed)
    for _ in range(done * settings.gradient_accumulation):
        next(stream)
    kept = set(saved_steps(settings, loop.steps))
    rows_apart = HeldOut(held_out, settings, loop)
    started = time.monotonic()
    reported = -math.inf  # The first step is reported.
    for step in range(done + 1, loop.steps + 1):
        entry = loop.step([next(stream) for _ in range(settings.gradient_accumulation)])
        if step in rows_apart.steps:
            entry["held_out_loss"] = rows_apart.loss()
        tracker.log(entry)
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
