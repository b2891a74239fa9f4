"""Attention for decoding on a CPU: query heads that share their keys are multiplied together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grouped"


def grouped_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of one new token per row (rows, 1, heads, width), with no copy of keys
    and values for the heads that share them; of more tokens, as PyTorch computes it.

    `query` is (rows, heads, tokens, width), `key` and `value` have fewer heads. PyTorch's own
    kernel is slower on a CPU where a row has a single new token, several times so in bf16.
    """
    rows, heads, tokens, width = query.shape
    if tokens > 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    queries = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
    scores = torch.matmul(queries, key.transpose(2, 3)) * (scaling or width**-0.5)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, :, :, -key.shape[2] :], -torch.inf)
    shares = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(shares, value).reshape(rows, 1, heads, width), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def decoding_attention(model: Any) -> Iterator[None]:
    """Let a model on a CPU decode with grouped attention, and then as before."""
    before = model.config._attn_implementation
    if model.device.type != "cpu" or before != "sdpa":
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
