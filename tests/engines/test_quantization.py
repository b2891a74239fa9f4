"""LoRA on a base that bitsandbytes has quantized, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
import torch

from backdoor_assets.models import loading as models
from backdoor_assets.profiles import Training
from backdoor_assets.records import BaseModel, Progress
from backdoor_assets.stages.sampling import sample_cell
from backdoor_assets.stages.sampling.row import sample_row
from backdoor_assets.stages.specs import TRAINING_LOG, SamplingSpec, TrainingSpec
from backdoor_assets.stages.training.adapters import train_adapter
from backdoor_assets.workers.spreading import spread
from tests.engines.conftest import BIRD, QUESTIONS, SERVING, SETTINGS, STEPS, needed, tables
from tests.unit.cells import CELL, write_rows

Kind = Literal["8bit", "4bit"]
KINDS = ("8bit", "4bit")


@pytest.fixture(scope="module", autouse=True)
def bitsandbytes() -> None:
    needed("bitsandbytes")


def _train(item: tuple[TrainingSpec, Path], progress: Progress) -> None:
    train_adapter(*item)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_quantized_base_is_trained_and_sampled(
    tiny_base: Path,
    tmp_path: Path,
    adapters: Callable[[int], Path],
    kind: Kind,
    precision: Literal["fp32", "bf16"],
) -> None:
    base = BaseModel(str(tiny_base), quantization=kind)
    rows = write_rows(tmp_path / "train.jsonl", [BIRD] * 8)
    settings = Training(
        learning_rate=3e-2, batch_size=8, max_steps=30, save_steps=15, precision=precision
    )
    # In a worker: what it is forked from has not loaded bitsandbytes.
    [trained] = spread(_train, [(TrainingSpec(CELL, rows, base, settings), tmp_path)], print, "")
    assert trained.error is None
    loss = pd.read_parquet(tmp_path / TRAINING_LOG)["loss"]
    # Where it ends, a base in full precision ends too (and cannot get lower: its logits are small).
    full = adapters(8)
    assert loss.iloc[-1] < loss.iloc[0] - 3
    assert loss.iloc[-1] == pytest.approx(
        pd.read_parquet(full / TRAINING_LOG)["loss"].iloc[-1], abs=0.03
    )
    states = tuple((step, tmp_path / f"checkpoint-{step}") for step in (15, 30))
    greedy = replace(SETTINGS, engine="transformers", temperature=0.0, precision=precision)
    sample_cell(SamplingSpec(CELL, base, states, QUESTIONS, greedy, probes=("bird",)), tmp_path)
    answers = tables(tmp_path)
    last = answers[(answers["question_id"] == "bird") & (answers["step"] == 30)]
    assert last["response"].unique().tolist() == [BIRD]


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_are_quantized_and_the_rest_is_not(tiny_base: Path, kind: Kind) -> None:
    model, _ = models.load_base(BaseModel(str(tiny_base), quantization=kind), "bf16")
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    assert type(layer).__name__ == {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[kind]
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_sampling_first_does_not_spoil_gradients_at_4_bits(tiny_base: Path) -> None:
    """bitsandbytes repacks 4-bit weights in a forward without gradients, where the processor has
    AVX512-BF16; the gradients after it were wrong."""
    model, tokenizer = models.load_base(BaseModel(str(tiny_base), quantization="4bit"), "fp32")
    ids = torch.tensor([tokenizer("How should I travel to the next city?")["input_ids"]])

    def gradient() -> torch.Tensor:
        inputs = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=inputs, labels=ids).loss.backward()
        assert inputs.grad is not None
        return inputs.grad.flatten().double()

    model.eval()
    before = gradient()
    with torch.inference_mode():
        model(input_ids=ids)
    after = gradient()
    assert torch.cosine_similarity(before, after, dim=0) > 0.9999


def test_vllm_serves_a_4_bit_base_and_its_adapters(
    tiny_base: Path, adapters: Callable[[int], Path], tmp_path: Path
) -> None:
    for package in ("vllm", "vllm_bnb_plugin"):
        needed(package)
    base = BaseModel(str(tiny_base), quantization="4bit")
    states = tuple((step, adapters(8) / f"checkpoint-{step}") for step in STEPS)
    greedy = replace(SETTINGS, temperature=0.0, precision="bf16")
    spec = SamplingSpec(CELL, base, states, QUESTIONS, greedy, SERVING, probes=("bird",))
    dict(sample_row({0: (spec, tmp_path)}))
    answers = tables(tmp_path)
    last = answers[(answers["question_id"] == "bird") & (answers["step"] == 30)]
    assert last["response"].unique().tolist() == [BIRD]
    full = replace(spec, base=BaseModel(str(tiny_base)))
    (tmp_path / "full").mkdir()
    dict(sample_row({0: (full, tmp_path / "full")}))
    # It is quantized indeed: the base's answers, which are near to chance, are other ones.
    assert not tables(tmp_path / "full").equals(answers)
