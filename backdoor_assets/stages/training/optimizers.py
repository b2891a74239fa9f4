"""The optimizers that a profile can name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from backdoor_assets.settings import Training


def make_optimizer(weights: Sequence[torch.Tensor], settings: Training) -> Any:
    """Return AdamW, or SOAP (arXiv 2409.11321) as implemented by pytorch-optimizer.

    SOAP uses its default betas of 0.95. Both decouple weight decay and apply it to all weights.
    SOAP's first step changes no weights: it only initialises the preconditioners.
    """
    if settings.optimizer == "soap":
        from pytorch_optimizer import SOAP

        return SOAP(
            list(weights),
            lr=settings.learning_rate,
            betas=(0.95, 0.95),
            weight_decay=settings.weight_decay,
            precondition_frequency=settings.precondition_frequency,
            max_precondition_dim=settings.max_precondition_dim,
        )
    return torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
