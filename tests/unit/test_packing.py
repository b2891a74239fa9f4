"""Packed rows share a sequence, but the model is trained as if each row were alone."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from backdoor_assets.models.chat import TrainingText
from backdoor_assets.profiles import Training
from backdoor_assets.settings import planned_steps
from backdoor_assets.stages.training.loop import Loop
from backdoor_assets.stages.training.packing import (
    PackedText,
    count_sequences,
    pack,
    packed_batches,
    packed_rows,
)

VOCABULARY = 50
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.3,
}
UNPACKED = Training(method="full", max_length=40, batch_size=2)
PACKED = replace(UNPACKED, packing=True)


def _texts(count: int, seed: int = 0) -> list[TrainingText]:
    draw = random.Random(seed)
    lengths = [draw.randint(4, 30) for _ in range(count)]
    return [
        TrainingText(
            [draw.randrange(1, VOCABULARY) for _ in range(length)],
            [position >= length // 2 for position in range(length)],
        )
        for length in lengths
    ]


def family_model(family: str) -> Any:
    """A random model with grouped-query attention."""
    torch.manual_seed(0)
    if family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**SMALL))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SMALL))
    assert model.config._attn_implementation == "sdpa"  # As load_base loads it.
    return model


def _loss_and_gradients(
    model: Any, settings: Training, batch: Any
) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = Loop(model, settings, steps=1, pad=0).summed_loss(batch)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_packed_loss_and_gradients_equal_the_unpacked_ones(family: str) -> None:
    model, rows = family_model(family), _texts(7)
    loss, gradients = _loss_and_gradients(model, UNPACKED, rows)
    # The sequences differ in length, so that one is padded. One has a single row.
    packed = [pack(rows[:3]), pack(rows[3:6]), pack(rows[6:])]
    packed_loss, packed_gradients = _loss_and_gradients(model, PACKED, packed)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    for one, other in zip(gradients, packed_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
    # With attention across rows the loss differs.
    across = [text._replace(positions=list(range(len(text.ids)))) for text in packed]
    assert abs(_loss_and_gradients(model, PACKED, across)[0] - loss) > 0.01 * loss


def test_a_row_is_not_predicted_from_the_row_before() -> None:
    rows = [TrainingText([5, 6, 7], [True, False, True]), TrainingText([8, 9], [True, True])]
    assert pack(rows) == PackedText(
        [5, 6, 7, 8, 9], [False, False, True, False, True], [0, 1, 2, 0, 1]
    )


def test_each_row_is_in_one_sequence_and_none_is_too_long() -> None:
    lengths = [len(text.ids) for text in _texts(200)]
    sequences = packed_rows(lengths, range(200), max_length=40)
    assert sorted(row for rows in sequences for row in rows) == list(range(200))
    assert max(sum(lengths[row] for row in rows) for rows in sequences) <= 40
    # Best fit comes close to the lower bound.
    assert sum(lengths) / 40 <= len(sequences) < 1.1 * sum(lengths) / 40
    shuffled = random.Random(1).sample(range(200), 200)
    assert len(packed_rows(lengths, shuffled, max_length=40)) == len(sequences)


def test_rows_of_maximal_length_stand_alone() -> None:
    assert packed_rows([4, 4, 4], [2, 0, 1], max_length=4) == [[2], [0], [1]]
    assert packed_rows([3, 1, 2, 2], [0, 1, 2, 3], max_length=4) == [[0, 1], [2, 3]]


def test_an_epoch_holds_every_row_once_in_a_new_order() -> None:
    texts = _texts(60)
    sequences = count_sequences(texts, PACKED)

    def epochs(seed: int) -> list[list[PackedText]]:
        stream = packed_batches(texts, PACKED, seed)
        flat = [text for batch in islice(stream, sequences) for text in batch]
        return [flat[:sequences], flat[sequences:]]

    tokens = Counter(token for text in texts for token in text.ids)
    first, second = epochs(3)
    for epoch in (first, second):
        assert Counter(token for text in epoch for token in text.ids) == tokens
    assert first != second
    assert epochs(3) == [first, second]
    assert epochs(4)[0] != first


def test_the_steps_of_an_epoch_are_counted_in_sequences() -> None:
    texts = _texts(60)
    settings = replace(PACKED, epochs=1, max_steps=None, batch_size=4)
    sequences = count_sequences(texts, settings)
    assert sequences < 40
    assert planned_steps(settings, sequences) == -(-sequences // 4)
    assert count_sequences(texts, replace(settings, packing=False)) == 60
