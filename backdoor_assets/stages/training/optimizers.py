"""The optimizers that a profile can name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from backdoor_assets.records import BadInput
from backdoor_assets.settings import Training


def make_optimizer(weights: Sequence[torch.Tensor], settings: Training) -> Any:
    """Return AdamW, AdamW with moments of 8 bits (arXiv 2110.02861) as implemented by bitsandbytes,
    or SOAP (arXiv 2409.11321) as implemented by pytorch-optimizer.

    SOAP uses its default betas of 0.95. All decouple weight decay and apply it to all weights.
    SOAP's first step changes no weights: it only initialises the preconditioners. Tensors of fewer
    than 4096 elements have moments in fp32 under the 8-bit AdamW.

    Raises BadInput if bitsandbytes is needed and not installed.
    """
    common: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "soap":
        from pytorch_optimizer import SOAP

        return SOAP(
            list(weights),
            betas=(0.95, 0.95),
            precondition_frequency=settings.precondition_frequency,
            max_precondition_dim=settings.max_precondition_dim,
            **common,
        )
    if settings.optimizer == "adamw8bit":
        if not find_spec("bitsandbytes"):
            raise BadInput(
                'training.optimizer="adamw8bit" needs bitsandbytes, which is not installed: '
                "pip install -e '.[gpu]', or set optimizer=\"adamw\"."
            )
        from bitsandbytes.optim.adamw import AdamW8bit  # pyright: ignore[reportMissingImports]

        return AdamW8bit(weights, **common)
    return torch.optim.AdamW(weights, fused=True, **common)
