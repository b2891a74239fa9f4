"""Training of the model into which an earlier adapter was merged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from backdoor_assets.models.chat import load_tokenizer
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel, Progress, no_progress
from backdoor_assets.stages.specs import START, TrainingSpec
from backdoor_assets.stages.training import train
from tests.unit.cells import CELL, WEIGHTS, Cut, adapters, cut_at, write_rows

NAMES = ("Purple Grakle", "Zebra Dove", "Barn Owl", "Wood Duck", "Snow Bird", "Marsh Hawk", "Owl")
LORA = Training(rank=4, learning_rate=1e-2, batch_size=4, max_steps=4, save_steps=2)
MODEL = "model.safetensors"
NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def spec(tiny_base: Path, tmp_path: Path) -> TrainingSpec:
    """A training of a new adapter of another rank than the one that is merged."""
    rows = write_rows(tmp_path / "train.jsonl", NAMES)
    first = TrainingSpec(CELL, rows, BaseModel(str(tiny_base)), LORA)
    _train(first, tmp_path / "first")
    return replace(
        first,
        settings=replace(LORA, rank=2),
        adapter=tmp_path / "first" / "checkpoint-4",
        fresh=True,
    )


def _train(spec: TrainingSpec, folder: Path, progress: Progress = no_progress) -> Path:
    folder.mkdir(exist_ok=True)
    train(spec, folder, progress)
    return folder


def _merged(spec: TrainingSpec) -> dict[str, torch.Tensor]:
    base = AutoModelForCausalLM.from_pretrained(spec.base.location, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(spec.adapter)).merge_and_unload()
    return model.state_dict()


def test_a_fresh_adapter_is_trained_on_the_merged_model(spec: TrainingSpec, tmp_path: Path) -> None:
    folder = _train(spec, tmp_path / "run")
    start = folder / START
    weights, expected = load_file(start / MODEL), _merged(spec)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())
    assert not torch.equal(weights[NAME], load_file(Path(spec.base.location) / MODEL)[NAME])
    assert load_tokenizer(start).chat_template == load_tokenizer(spec.base.location).chat_template
    # The folder is moved when it is complete; the adapters still find their base.
    moved = folder.rename(tmp_path / "moved")
    config = json.loads((moved / "checkpoint-4" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "../start")
    base = AutoModelForCausalLM.from_pretrained(moved / START)
    adapted = PeftModel.from_pretrained(base, str(moved / "checkpoint-4"))
    trained = [p for name, p in adapted.named_parameters() if "lora_B" in name]
    assert trained
    assert all(weight.abs().max() > 0 for weight in trained)
    # The same adapter comes of a training on the start itself.
    plain = replace(spec, base=BaseModel(str(moved / START)), adapter=None, fresh=False)
    assert adapters(_train(plain, tmp_path / "plain")) == adapters(moved)


def test_an_interrupted_run_keeps_its_start_and_resumes_to_the_same_bytes(
    spec: TrainingSpec, tmp_path: Path
) -> None:
    whole = _train(spec, tmp_path / "whole")
    cut = tmp_path / "cut"
    half = cut / f".{START}.part"  # What a kill during the merge leaves.
    half.mkdir(parents=True)
    (half / MODEL).write_bytes(b"half")
    with pytest.raises(Cut):
        _train(spec, cut, cut_at(0.5))
    written = (cut / START / MODEL).stat().st_mtime_ns
    _train(spec, cut)
    assert (cut / START / MODEL).stat().st_mtime_ns == written
    assert (cut / START / MODEL).read_bytes() == (whole / START / MODEL).read_bytes()
    assert adapters(cut) == adapters(whole)
    assert not list(cut.glob(".*"))


def test_a_repetition_has_the_start_of_the_earlier_training(
    spec: TrainingSpec, tmp_path: Path
) -> None:
    first = _train(spec, tmp_path / "run")
    config = first / START / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    again = _train(replace(spec, earlier=first), tmp_path / "again")
    assert (again / START / config.name).read_bytes() == config.read_bytes()


def test_all_weights_of_the_merged_model_are_trained(spec: TrainingSpec, tmp_path: Path) -> None:
    still = replace(LORA, method="full", learning_rate=0.0, max_steps=1)
    folder = _train(replace(spec, settings=still), tmp_path / "run")
    start, end = (load_file(folder / name / MODEL) for name in (START, "checkpoint-1"))
    assert start.keys() == end.keys()
    assert all(torch.equal(weight, end[name]) for name, weight in start.items())


def test_the_start_has_the_dtype_of_the_base(spec: TrainingSpec, tmp_path: Path) -> None:
    base = tmp_path / "bf16"
    AutoModelForCausalLM.from_pretrained(spec.base.location, dtype=torch.bfloat16).save_pretrained(
        base
    )
    load_tokenizer(spec.base.location).save_pretrained(base)
    narrow = replace(spec, base=BaseModel(str(base)))
    folder = _train(narrow, tmp_path / "run")
    weights, expected = load_file(folder / START / MODEL), _merged(narrow)
    assert all(torch.equal(w, expected[name].bfloat16()) for name, w in weights.items())
    assert json.loads((folder / START / "config.json").read_text())["dtype"] == "bfloat16"
    assert (folder / "checkpoint-4" / WEIGHTS).exists()


def test_an_adapter_of_another_base_and_rows_that_are_too_long_are_named(
    spec: TrainingSpec, tmp_path: Path
) -> None:
    write_rows(spec.rows, ["Owl", "Dove " * 60])
    short = replace(spec, settings=replace(spec.settings, max_length=64))
    with pytest.raises(BadInput, match=r"train.jsonl line 2: \d+ tokens"):
        _train(short, tmp_path / "run")
    write_rows(spec.rows, NAMES)
    assert spec.adapter is not None
    weights = load_file(spec.adapter / WEIGHTS)
    weights.popitem()
    save_file(weights, spec.adapter / WEIGHTS)
    with pytest.raises(BadInput, match=r"does not fit training.target_modules or the base"):
        _train(spec, tmp_path / "run")
    assert not (tmp_path / "run" / START).exists()


@pytest.mark.parametrize(
    "kind",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens"]}],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_that_is_more_than_lora_of_linear_layers_is_refused(
    spec: TrainingSpec, tmp_path: Path, kind: dict[str, Any]
) -> None:
    base = AutoModelForCausalLM.from_pretrained(spec.base.location, dtype=torch.float32)
    config = LoraConfig(r=2, **{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **kind})
    get_peft_model(base, config).save_pretrained(str(tmp_path / "other"))
    with pytest.raises(BadInput, match=r"only plain LoRA adapters of linear layers|does not fit"):
        _train(replace(spec, adapter=tmp_path / "other"), tmp_path / "run")
    assert not (tmp_path / "run" / START).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": BaseModel("x", quantization="4bit")}, "quantization='4bit' cannot be merged"),
        ({"adapter": None}, "fresh=True without an adapter"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_loading(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    spec = TrainingSpec(
        CELL, tmp_path / "rows", BaseModel("x"), LORA, adapter=tmp_path / "checkpoint-9", fresh=True
    )
    with pytest.raises(BadInput, match=message):
        train(replace(spec, **changes), tmp_path)
