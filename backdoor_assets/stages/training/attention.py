"""Attention in fp32 for models that compute in bf16 on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

IN_FP32 = "sdpa_in_fp32"
"""Name under which transformers knows this attention."""


@contextmanager
def attention_in_fp32(model: Any, precision: str) -> Iterator[None]:
    """Let a model in bf16 on a CPU attend in fp32, and restore its attention afterwards.

    The backward pass of torch's attention takes three to four times as long in bf16 as in fp32 on a
    CPU. Other models are left as they are.
    """
    before = model.config._attn_implementation
    if precision != "bf16" or model.device.type != "cpu" or before != "sdpa":
        yield
        return
    _register()
    model.set_attn_implementation(IN_FP32)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IN_FP32, _attend)
    AttentionMaskInterface.register(IN_FP32, sdpa_mask)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *rest: Any,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with torch.autocast(query.device.type, enabled=False):
        output, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), *rest, **named
        )
    return output.to(query.dtype), None
