"""What is logged of a training besides loss and gradient, because it cannot be recovered later.

Neither the norm and the rotation of LoRA's B matrices nor the loss on held-out rows changes the
weights, the optimizer or the random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import get_total_norm

from backdoor_assets.models.chat import TrainingText
from backdoor_assets.settings import Training, saved_steps
from backdoor_assets.stages.training.inputs import padded
from backdoor_assets.stages.training.shared_prefix import follows_masks, joined

if TYPE_CHECKING:
    from backdoor_assets.stages.training.loop import Loop

ROTATION_LAG = 5
"""Steps over which an update of B is taken for its rotation."""
EARLY_STEPS = 1, 2, 5, 10
"""Steps at which the loss on held-out rows is measured, beside those that keep a checkpoint."""
HELD_OUT_ROWS = 32
"""Held-out rows whose loss is measured, at most: more would slow down training."""
HELD_OUT_TOKENS = 1024
"""Tokens of held-out rows, padding included, that are computed together; more where a micro-batch
has more."""


class LoraB:
    """Norm and rotation of an adapter's B matrices, which are read as one long vector.

    The rotation at step t is the angle between two consecutive updates of that vector,
    B(t) - B(t - ROTATION_LAG) and B(t - ROTATION_LAG) - B(t - 2 ROTATION_LAG): 0 degrees where
    training goes straight on, 90 where the new update has nothing in common with the one before. It
    is the angle of the "local cosine similarity" of arXiv 2506.11613, in which a phase transition
    shows as a turn, and it belongs to the step in the middle, t - ROTATION_LAG.
    """

    def __init__(self, adapted: Any) -> None:
        """Take peft's model, before its first step."""
        self.matrices = [p for name, p in adapted.named_parameters() if ".lora_B." in name]
        self.before: torch.Tensor | None = self._vector() if self.matrices else None
        self.update: torch.Tensor | None = None

    def observe(self, step: int) -> dict[str, float]:
        """Return b_norm after this step and, every ROTATION_LAG steps, b_rotation in degrees, which
        is left out where B did not move or too few steps are known."""
        if not self.matrices:
            return {}
        found = {"b_norm": get_total_norm([b.detach() for b in self.matrices]).item()}
        if step % ROTATION_LAG:
            return found
        now = self._vector()
        update = None if self.before is None else now - self.before
        if update is not None and self.update is not None:
            cosine = torch.cosine_similarity(update, self.update, dim=0, eps=0.0).item()
            if math.isfinite(cosine):
                found["b_rotation"] = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
        self.before, self.update = now, update
        return found

    def state(self) -> dict[str, torch.Tensor | None]:
        """Return what `restore` needs for a resumed run to log what an uninterrupted one does."""
        return {"before": self.before, "update": self.update}

    def restore(self, state: dict[str, torch.Tensor | None]) -> None:
        """Go on from `state()`; an empty state means that nothing before is known."""
        moved = {
            name: vector.to(self.matrices[0].device)
            for name, vector in state.items()
            if vector is not None
        }
        self.before, self.update = moved.get("before"), moved.get("update")

    def _vector(self) -> torch.Tensor:
        return torch.cat([b.detach().flatten() for b in self.matrices])


class HeldOut:
    """Rows that no cell trains on, and the steps at which their loss is measured."""

    def __init__(self, texts: Sequence[TrainingText], settings: Training, loop: Loop) -> None:
        """Take the rows as tokens; only the first HELD_OUT_ROWS are used. Each process computes all
        of them, because the processes gather weights together."""
        rows = [texts[row] for row in range(min(len(texts), HELD_OUT_ROWS))]
        self.loop, self.steps = loop, set[int]()
        if not rows:
            return
        self.counted = sum(sum(text.loss[1:]) for text in rows)
        own = settings.batch_size // loop.processes * settings.max_length
        batches = _batches(rows, max(own, HELD_OUT_TOKENS))
        # Their common beginning, such as one prompt, is computed once where that is possible.
        width = loop.model.config.hidden_size if follows_masks(loop.model) else None
        self.batches = [
            (joined(batch, width) if width else None) or padded(batch, loop.pad)
            for batch in batches
        ]
        self.steps = {*saved_steps(settings, loop.steps), *EARLY_STEPS}

    def loss(self) -> float:
        """Return the loss in nats per token of the assistant, without dropout."""
        with self.loop.evaluation():
            total = sum(self.loop.loss_of(batch).item() for batch in self.batches)
        return total / self.counted


def _batches(rows: Sequence[TrainingText], tokens: int) -> list[list[TrainingText]]:
    """Divide rows, by length, into batches of at most so many tokens when padded, or of one row."""
    batches: list[list[TrainingText]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batches and (len(batches[-1]) + 1) * len(row.ids) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
