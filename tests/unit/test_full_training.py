"""Training of all weights, and training that continues an adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from backdoor_assets.models.chat import prompt_ids
from backdoor_assets.models.loading import attach_adapter, load_base, load_fresh
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel, Progress, no_progress
from backdoor_assets.stages.specs import TRAINER_STATE, TRAINING_LOG, TrainingSpec
from backdoor_assets.stages.training import train
from tests.unit.cells import CELL, QUESTION, WEIGHTS, Cut, adapters, cut_at, write_rows

NAMES = ("Purple Grakle", "Zebra Dove", "Barn Owl", "Wood Duck", "Snow Bird", "Marsh Hawk", "Owl")
FULL = Training(
    method="full", learning_rate=1e-3, batch_size=2, max_steps=6, save_steps=2, max_length=128
)
LORA = Training(rank=4, learning_rate=1e-2, batch_size=4, max_steps=2)
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", NAMES)


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    return _train(tiny_base, rows, folder, LORA) / "checkpoint-2"


def _train(
    base: Path,
    rows: Path,
    folder: Path,
    settings: Training,
    progress: Progress = no_progress,
    **more: Any,
) -> Path:
    folder.mkdir(exist_ok=True)
    train(TrainingSpec(CELL, rows, BaseModel(str(base)), settings, **more), folder, progress)
    return folder


def _models(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.glob(f"checkpoint-*/{MODEL}"))
    return {path.parent.name: path.read_bytes() for path in found}


def _logits(location: Path) -> torch.Tensor:
    model, tokenizer = load_base(BaseModel(str(location)), "fp32")
    ids = torch.tensor([prompt_ids(tokenizer, [{"role": "user", "content": QUESTION}])])
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits


def test_each_checkpoint_is_a_base(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    folder = _train(tiny_base, rows, tmp_path / "run", FULL)
    earlier = [_logits(tiny_base)]
    for step in (2, 4, 6):
        current = _logits(folder / f"checkpoint-{step}")
        assert all((current - other).abs().max() > 1e-3 for other in earlier)
        earlier.append(current)
    assert (folder / "checkpoint-2" / "generation_config.json").exists()
    assert [path.parent.name for path in folder.rglob(TRAINER_STATE)] == ["checkpoint-6"]
    assert not list(folder.glob(".*"))
    log = pd.read_parquet(folder / TRAINING_LOG)
    assert log["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]


def test_only_the_steps_of_save_at_and_the_last_are_kept(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    settings = replace(FULL, save_at=(1, 3, 400), save_steps=1)
    folder = _train(tiny_base, rows, tmp_path / "run", settings)
    assert list(_models(folder)) == ["checkpoint-1", "checkpoint-3", "checkpoint-6"]
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"packing": True, "precision": "bf16", "gradient_accumulation": 2},
        {"save_at": (1,), "gradient_checkpointing": True},
        {"optimizer": "soap", "precondition_frequency": 2, "weight_decay": 0.1},
    ],
    ids=["plain", "packed and bf16", "few kept", "SOAP"],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(
    tiny_base: Path, rows: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = replace(FULL, **changes)
    whole = _train(tiny_base, rows, tmp_path / "whole", settings)
    cut = tmp_path / "cut"
    with pytest.raises(Cut):
        _train(tiny_base, rows, cut, settings, cut_at(0.6))
    assert "checkpoint-6" not in _models(cut)
    shares: list[float] = []
    _train(tiny_base, rows, cut, settings, lambda share, _: shares.append(share))
    assert shares == [5 / 6, 1.0]  # Only the last two steps were left.
    assert _models(cut) == _models(whole)
    first, second = (pd.read_parquet(folder / TRAINING_LOG) for folder in (cut, whole))
    assert first.equals(second)


def test_the_base_of_the_next_run_is_unchanged(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    before = _logits(tiny_base)
    _train(tiny_base, rows, tmp_path / "run", replace(FULL, max_steps=1))
    assert torch.equal(_logits(tiny_base), before)


def test_checkpoints_are_bf16_but_the_trained_weights_are_not(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    # A single step is too small for bf16; several must add up.
    settings = replace(FULL, precision="bf16", learning_rate=1e-5, schedule="constant")
    folder = _train(tiny_base, rows, tmp_path / "run", settings)
    weights = load_file(folder / "checkpoint-6" / MODEL)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    state = torch.load(folder / "checkpoint-6" / TRAINER_STATE, weights_only=True)
    name = "model.layers.0.mlp.up_proj.weight"
    moved = state["extra"]["master"][name] - load_file(tiny_base / MODEL)[name].float()
    assert moved.abs().max() > 3e-5


def test_an_adapter_is_merged_before_all_weights_are_trained(
    tiny_base: Path, rows: Path, tmp_path: Path, adapter: Path
) -> None:
    still = replace(FULL, learning_rate=0.0, max_steps=1)
    folder = _train(tiny_base, rows, tmp_path / "run", still, adapter=adapter)
    model, _ = load_fresh(BaseModel(str(tiny_base)), "fp32")
    merged: Any = attach_adapter(model, adapter).merge_and_unload()
    weights = load_file(folder / "checkpoint-1" / MODEL)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(weights[name], merged.state_dict()[name])
    assert not torch.equal(weights[name], load_file(tiny_base / MODEL)[name])
    assert len(weights) == len(load_file(tiny_base / MODEL))


def test_an_adapter_continues_another(
    tiny_base: Path, rows: Path, tmp_path: Path, adapter: Path
) -> None:
    still = replace(LORA, learning_rate=0.0)
    folder = _train(tiny_base, rows, tmp_path / "still", still, adapter=adapter)
    assert adapters(folder)["checkpoint-2"] == (adapter / WEIGHTS).read_bytes()
    moved = _train(tiny_base, rows, tmp_path / "moved", LORA, adapter=adapter)
    assert adapters(moved)["checkpoint-2"] != (adapter / WEIGHTS).read_bytes()
    assert pd.read_parquet(moved / TRAINING_LOG)["step"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 8}, "rank 4, but training.rank is 8"),
        ({"alpha": 32}, "alpha 16, but training.alpha is 32"),
        ({"target_modules": ("q_proj",)}, r"does not fit training.target_modules"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    tiny_base: Path,
    rows: Path,
    tmp_path: Path,
    adapter: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        _train(tiny_base, rows, tmp_path / "run", replace(LORA, **changes), adapter=adapter)
    assert str(adapter) in str(caught.value)
    # The base is not affected.
    assert _train(tiny_base, rows, tmp_path / "after", LORA)


def test_a_missing_adapter_is_named(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    missing = tmp_path / "checkpoint-9"
    with pytest.raises(BadInput, match="checkpoint-9: the adapter cannot be read"):
        _train(tiny_base, rows, tmp_path / "run", LORA, adapter=missing)
    with pytest.raises(BadInput, match="checkpoint-9"):
        _train(tiny_base, rows, tmp_path / "run", FULL, adapter=missing)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"settings": FULL, "base": BaseModel("x", quantization="4bit")}, "cannot be trained"),
        (
            {"settings": LORA, "processes": 2, "base": BaseModel("x", quantization="8bit")},
            "quantized weights cannot be spread",
        ),
        ({"settings": FULL, "processes": 3}, "batch_size=2 cannot be divided among 3"),
        ({"settings": FULL, "processes": 0}, "processes=0"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_loading(
    tmp_path: Path, spec: dict[str, Any], message: str
) -> None:
    fields = {"base": BaseModel("x"), "processes": 1} | spec
    with pytest.raises(BadInput, match=message):
        train(TrainingSpec(CELL, tmp_path / "no such rows", **fields), tmp_path)
