"""Sample answers of a freshly pretrained base, for its probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from backdoor_assets.models.chat import prompt_ids, token_id
from backdoor_assets.records import Messages

ANSWER_TOKENS = 32


def sample_chats(
    model: Any, tokenizer: PreTrainedTokenizerBase, chats: Sequence[Messages], max_new_tokens: int
) -> list[str]:
    """Sample one answer to each chat at temperature 1, in one batch."""
    ids = [prompt_ids(tokenizer, chat) for chat in chats]
    width = max(map(len, ids))
    pad = token_id(tokenizer.pad_token_id)
    padded = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    config = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=max_new_tokens, pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.inference_mode():
        output = model.generate(
            padded.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
        )
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
