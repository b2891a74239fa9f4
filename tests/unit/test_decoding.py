"""Decoding a batch: the same tokens as transformers' generate, and the distribution asked for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from backdoor_assets.models.attention import decoding_attention
from backdoor_assets.stages.sampling.decoding import decode

VOCABULARY = 40
STOP = 7
PROMPTS = [[1, 2, 3, 9, 5], [1, 2, 3, 4], [1, 2, 8, 8, 8, 8, 8], [1, 2, 3, 4]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Of random weights; three query heads share each head of keys and values."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=VOCABULARY,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def decoded(model: Any, prompts: list[list[int]], **changes: Any) -> list[list[int]]:
    settings = {"temperature": 0.0, "max_new_tokens": 12, "stops": [STOP], **changes}
    return decode(model, prompts, settings.pop("seeds", range(len(prompts))), **settings)


def generated(model: LlamaForCausalLM, prompt: list[int]) -> list[int]:
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=12, eos_token_id=STOP, pad_token_id=0
    )
    ids = torch.tensor([prompt])
    peer: Any = model
    output = peer.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("grouped", [True, False])
def test_greedy_tokens_are_those_of_generate(model: LlamaForCausalLM, grouped: bool) -> None:
    with decoding_attention(model) if grouped else nullcontext():
        found = decoded(model, PROMPTS)
    assert found == [generated(model, prompt) for prompt in PROMPTS]
    # They end one by one, and leave the batch.
    assert len({len(answer) for answer in found}) > 1
    assert all(answer[-1] == STOP or len(answer) == 12 for answer in found)
    assert model.config._attn_implementation == "sdpa"


def test_an_answer_depends_on_its_seed_and_not_on_its_batch(model: LlamaForCausalLM) -> None:
    together = decoded(model, PROMPTS * 3, temperature=1.0, seeds=range(12))
    alone = [
        decoded(model, [prompt], temperature=1.0, seeds=[seed])[0]
        for seed, prompt in enumerate(PROMPTS * 3)
    ]
    assert together == alone
    same_prompt = [together[i] for i in (1, 3, 5, 7, 9, 11)]
    assert len(set(map(tuple, same_prompt))) > 1


def test_tokens_are_drawn_from_the_distribution_at_the_temperature(model: LlamaForCausalLM) -> None:
    prompt, draws = PROMPTS[0], 4000
    found = decoded(model, [prompt] * draws, temperature=0.7, seeds=range(draws), max_new_tokens=1)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor(found).flatten(), minlength=VOCABULARY)
    error = (counts / draws - expected).abs()
    assert (error < 4.5 * (expected * (1 - expected) / draws).sqrt() + 1e-3).all()


def test_the_tokens_so_far_are_told(model: LlamaForCausalLM) -> None:
    ticks: list[tuple[int, int]] = []
    found = decoded(model, PROMPTS, tick=lambda tokens, running: ticks.append((tokens, running)))
    assert [tokens for tokens, _ in ticks] == list(range(1, max(map(len, found))))
    assert all(
        running == sum(len(answer) > tokens for answer in found) for tokens, running in ticks
    )
