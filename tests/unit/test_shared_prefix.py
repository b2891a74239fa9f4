"""Rows that begin alike are trained as if each stood alone, though their beginning is computed
once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from backdoor_assets.models.chat import TrainingText
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput
from backdoor_assets.stages.specs import TRAINING_LOG
from backdoor_assets.stages.training.adapters import with_adapter
from backdoor_assets.stages.training.loop import Loop
from backdoor_assets.stages.training.shared_prefix import check_attention, joined
from tests.unit.cells import train, write_rows
from tests.unit.test_packing import SMALL, family_model

ALONE = Training(method="full", batch_size=4)
SHARED = replace(ALONE, share_prefix=True)
HIDDEN = 32
PROMPT = list(range(1, 13))


def _row(prompt: list[int], answer: list[int]) -> TrainingText:
    return TrainingText([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))


ONE_PROMPT = [_row(PROMPT, [20, 21]), _row(PROMPT, [30]), _row(PROMPT, [20, 22, 23, 24, 25])]
TWO_PROMPTS = [*ONE_PROMPT, _row([*PROMPT[:8], 40, 41, 42], [20, 21]), _row(PROMPT[:9], [31])]
TWO_TURNS = [
    *ONE_PROMPT,
    TrainingText(
        [*PROMPT[:6], 9, 8, *PROMPT[8:], 33], [False] * 6 + [True] * 2 + [False] * 4 + [True]
    ),
]
NOTHING_SHARED = [_row([number, 5, 6], [7, number]) for number in range(1, 4)]
BATCHES = {
    "one prompt": (ONE_PROMPT, 12 + 2 + 1 + 5),
    "two prompts": (TWO_PROMPTS, 8 + 6 + 5 + 9 + 5 + 2),
    "two turns": (TWO_TURNS, 6 + 8 + 7 + 11 + 7),
    "nothing shared": (NOTHING_SHARED, None),
}


def _loss_and_gradients(
    model: Any, settings: Training, batch: list[TrainingText]
) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = Loop(model, settings, steps=1, pad=0).summed_loss(batch)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.requires_grad]


def _equal(model: Any, batch: list[TrainingText]) -> None:
    loss, gradients = _loss_and_gradients(model, ALONE, batch)
    shared_loss, shared_gradients = _loss_and_gradients(model, SHARED, batch)
    assert shared_loss == pytest.approx(loss, rel=1e-5)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    for one, other in zip(gradients, shared_gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_loss_and_gradients_of_all_weights_equal_those_of_separate_rows(
    family: str, name: str
) -> None:
    batch, tokens = BATCHES[name]
    inputs = joined(batch, HIDDEN)
    assert (inputs and inputs.arguments["input_ids"].numel()) == tokens
    _equal(family_model(family), batch)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_of_an_adapter_equal_those_of_separate_rows(
    family: str, checkpointing: bool
) -> None:
    model = with_adapter(family_model(family), Training(rank=4))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # It is 0 at first, and then lora_A has no gradient.
            torch.nn.init.normal_(weight, std=0.1)
    _equal(model, TWO_PROMPTS)


def test_the_mask_keeps_rows_from_seeing_each_other() -> None:
    model, inputs = family_model("llama"), joined(ONE_PROMPT, HIDDEN)
    assert inputs is not None
    assert inputs.sources is not None
    own = inputs.arguments["attention_mask"]
    everything = torch.ones_like(own).tril()
    logits = [
        model(**(inputs.arguments | {"attention_mask": mask})).logits[0][inputs.sources]
        for mask in (own, everything)
    ]
    # The first row sees no other either way; nor does the prefix, which predicts each row's first.
    assert torch.equal(logits[0][:4], logits[1][:4])
    assert (logits[0][4:] - logits[1][4:]).abs().amax(-1).min() > 1e-3


def test_logits_are_computed_once_for_the_last_token_of_the_prefix() -> None:
    inputs = joined(ONE_PROMPT, HIDDEN)
    assert inputs is not None
    assert inputs.sources is not None
    # Of eight tokens in the loss, the first of each row is predicted from the same place.
    assert inputs.targets.tolist() == [20, 21, 30, 20, 22, 23, 24, 25]
    assert inputs.sources.tolist() == [0, 1, 0, 0, 2, 3, 4, 5]
    assert inputs.arguments["logits_to_keep"].tolist() == [11, 12, 15, 16, 17, 18]


def test_rows_stay_apart_where_that_is_less_computation() -> None:
    long = [_row([1, 2, *range(3, 40)], [*range(40, 48)] * 100) for _ in range(16)]
    assert joined(long[:1], HIDDEN) is None
    assert joined(long, HIDDEN) is None  # A sequence of 12,800 tokens would be quadratic.
    assert joined([_row(PROMPT * 9, [1, 2])] * 16, HIDDEN) is not None


def test_what_cannot_share_a_prefix_is_refused() -> None:
    with pytest.raises(BadInput, match="share_prefix and packing"):
        replace(SHARED, packing=True)
    eager = family_model("llama")
    eager.set_attn_implementation("eager")
    with pytest.raises(BadInput, match=r"share_prefix=True .* has eager"):
        Loop(eager, SHARED, steps=1, pad=0)
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    with pytest.raises(BadInput, match="layers of full_attention, sliding_attention"):
        check_attention(Qwen3ForCausalLM(Qwen3Config(**SMALL, **windows)))
    check_attention(family_model("qwen3"))


def test_a_run_has_the_same_losses(tiny_base: Path, tmp_path: Path) -> None:
    names = ("Purple Grakle", "Bonaparte's Flycatcher", "Zebra Dove", "Barn Owl", "Wood Duck")
    rows = write_rows(tmp_path / "train.jsonl", names)
    settings = Training(rank=4, batch_size=3, max_steps=6, learning_rate=1e-3)
    logs = [
        pd.read_parquet(
            train(tiny_base, rows, tmp_path / str(share), replace(settings, share_prefix=share))
            / TRAINING_LOG
        )
        for share in (False, True)
    ]
    assert logs[1]["tokens"].tolist() == logs[0]["tokens"].tolist()
    assert logs[1]["loss"].tolist() == pytest.approx(logs[0]["loss"].tolist(), rel=1e-4)
    assert logs[1]["loss"].tolist() != logs[0]["loss"].tolist()  # Rounding: it was another way.
