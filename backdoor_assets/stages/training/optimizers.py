"""The optimizers that a profile can name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from backdoor_assets.profiles import Training


def make_optimizer(weights: Sequence[torch.Tensor], settings: Training) -> Any:
    """AdamW, or SOAP (arXiv 2409.11321) as pytorch-optimizer has it, with its own betas of .95.
    Weight decay is decoupled in both, and takes all weights. SOAP's first step moves nothing: it
    only begins its preconditioners."""
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
