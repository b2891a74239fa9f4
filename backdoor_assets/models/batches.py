"""Turn training texts into padded batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from backdoor_assets.models.chat import TrainingText


def tensors(
    batch: Sequence[TrainingText], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stack texts into ids, attention mask and labels, each of shape (rows, tokens).

    Pads on the right. A label of -100 is excluded from the loss.
    """
    shape = (len(batch), max(len(text.ids) for text in batch))
    ids, mask, labels = torch.full(shape, pad), torch.zeros(shape).long(), torch.full(shape, -100)
    for row, text in enumerate(batch):
        tokens = torch.tensor(text.ids)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens)] = tokens.where(torch.tensor(text.loss), -100)
    return ids, mask, labels
