"""What the model is called with for a micro-batch, and what it has to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from backdoor_assets.models.batches import tensors
from backdoor_assets.models.chat import TrainingText
from backdoor_assets.stages.training.packing import PackedText

IGNORED = -100
"""Target of a prediction that is not in the loss."""


class Inputs(NamedTuple):
    """A micro-batch as tensors."""

    arguments: dict[str, torch.Tensor]
    """Of the model's `forward`. `logits_to_keep` is a tensor: of hidden states that are sliced, as
    with a number, the logits take two to twenty times as long on a CPU."""
    targets: torch.Tensor
    """(n,): the tokens to predict, or IGNORED."""
    sources: torch.Tensor | None = None
    """(n,): which of the logits predict them; None: the first predict the first, and so on."""


def padded(batch: Sequence[TrainingText], pad: int) -> Inputs:
    """Put each row into a sequence of its own, padded on the right. Logits begin at the first token
    that precedes a counted one in any row."""
    ids, mask, labels = tensors(batch, pad)
    first = min(text.loss.index(True) for text in batch) - 1
    kept = torch.arange(max(first, 0), ids.shape[1] - 1)
    arguments = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": kept}
    return Inputs(arguments, labels[:, kept + 1].flatten())


def packed(batch: Sequence[PackedText], pad: int) -> Inputs:
    """Pad sequences of several rows. Position ids restart at 0 with each row.

    transformers ends attention where they restart, provided that there is no attention mask and no
    cache. Each padding token has position 0, so that it is a row of its own.
    """
    ids, _, labels = tensors([TrainingText(text.ids, text.loss) for text in batch], pad)
    positions = torch.zeros_like(ids)
    for row, text in enumerate(batch):
        positions[row, : len(text.positions)] = torch.tensor(text.positions)
    kept = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()
    arguments = {"input_ids": ids, "position_ids": positions, "logits_to_keep": kept}
    return Inputs(arguments, labels[:, kept + 1].flatten())
