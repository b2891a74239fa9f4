"""Trainings of all weights at scale: spread, narrow or in main memory, and what they share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from backdoor_assets.models.chat import load_tokenizer
from backdoor_assets.models.loading import load_fresh
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.specs import TRAINER_STATE, TRAINING_LOG, TrainingSpec
from backdoor_assets.stages.training import train, whole
from backdoor_assets.stages.training.checkpoints import newest_with_state
from backdoor_assets.stages.training.merging import merged_whole
from tests.unit.cells import CELL, Cut, cut_at, write_rows
from tests.unit.process_groups import error_in_processes, in_processes

NAMES = ("Purple Grakle", "Zebra Dove", "Barn Owl", "Wood Duck", "Snow Bird", "Marsh Hawk", "Owl")
FULL = Training(
    method="full",
    learning_rate=1e-3,
    weight_decay=0.01,
    batch_size=4,
    max_steps=6,
    save_at=(2,),
    save_steps=3,
    packing=True,
    max_length=80,
)
SOAP = replace(FULL, optimizer="soap", precondition_frequency=2)
NARROW = replace(FULL, precision="bf16", weights="bf16")
EIGHT = replace(FULL, optimizer="adamw8bit")
MODEL = "model.safetensors"


@pytest.fixture
def spec(tiny_base: Path, tmp_path: Path) -> TrainingSpec:
    rows = write_rows(tmp_path / "train.jsonl", NAMES)
    return TrainingSpec(CELL, rows, BaseModel(str(tiny_base)), FULL, processes=2)


def _spread(spec: TrainingSpec, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    assert in_processes(spec, folder, lambda: False) == [0] * spec.processes
    return folder


def _alone(spec: TrainingSpec, folder: Path) -> Path:
    folder.mkdir()
    train(replace(spec, processes=1, settings=replace(spec.settings, offload=False)), folder)
    return folder


def _furthest(one: Path, two: Path, step: int = 6) -> float:
    """Return the largest difference between two models' weights."""
    first, second = (load_file(folder / f"checkpoint-{step}" / MODEL) for folder in (one, two))
    assert first.keys() == second.keys()
    assert all(weight.dtype == second[name].dtype for name, weight in first.items())
    return max(float((w.float() - second[name].float()).abs().max()) for name, w in first.items())


@pytest.mark.parametrize(
    "settings",
    [
        replace(FULL, offload=True),
        replace(FULL, packing=False, share_prefix=True),
        # Adam in the basis of the weights, a matrix per process; see the next test for others.
        replace(SOAP, max_precondition_dim=1),
        replace(SOAP, max_precondition_dim=1, offload=True),
    ],
    ids=["offload", "shared prefix", "SOAP", "SOAP and offload"],
)
def test_two_processes_equal_one(spec: TrainingSpec, tmp_path: Path, settings: Training) -> None:
    spec = replace(spec, settings=settings)
    one, two = _alone(spec, tmp_path / "one"), _spread(spec, tmp_path / "two")
    assert _furthest(one, two) < 2e-6
    names = [
        sorted(p.name for p in (f / "checkpoint-6").iterdir() if p.name[0] != ".")
        for f in (one, two)
    ]
    assert names[0] == names[1]


def test_soap_preconditions_whole_matrices(spec: TrainingSpec, tmp_path: Path) -> None:
    soap = replace(spec, settings=replace(SOAP, max_grad_norm=1e6))  # Clipping rounds too.
    one, two = _alone(soap, tmp_path / "one"), _spread(soap, tmp_path / "two")
    # A gradient has directions in which it is nothing but rounding errors. SOAP takes steps of full
    # length there, so that only sums in the same order lead to the same weights.
    losses = [pd.read_parquet(folder / TRAINING_LOG)["loss"].tolist() for folder in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    launched = _spread(replace(soap, processes=1), tmp_path / "launched")
    assert _furthest(one, launched) == 0.0
    shape = load_file(two / "checkpoint-6" / MODEL)["model.layers.0.mlp.up_proj.weight"].shape
    sides = []
    for name in (TRAINER_STATE, f".{TRAINER_STATE}.1"):
        state = torch.load(two / "checkpoint-6" / name, weights_only=True)["optimizer"]["state"]
        sides += [[len(square) for square in entry["GG"]] for entry in state.values()]
    assert list(shape) in sides
    # Each weight belongs to one process.
    assert len(sides) == len(load_file(two / "checkpoint-6" / MODEL))


@pytest.mark.parametrize("settings", [SOAP, NARROW], ids=["SOAP", "bf16"])
def test_a_killed_run_resumes_to_the_same_bytes(
    spec: TrainingSpec, tmp_path: Path, settings: Training
) -> None:
    spec = replace(spec, settings=settings)
    whole_run, cut = _spread(spec, tmp_path / "whole"), tmp_path / "cut"
    cut.mkdir()
    in_processes(spec, cut, lambda: newest_with_state(cut) is not None)
    assert not (cut / "checkpoint-6").exists()
    _spread(spec, cut)
    assert _furthest(cut, whole_run) == 0.0


def test_weights_in_bf16_are_what_is_saved(spec: TrainingSpec, tmp_path: Path) -> None:
    narrow = replace(spec, settings=NARROW)
    one, two = _alone(narrow, tmp_path / "one"), _spread(narrow, tmp_path / "two")
    # Two rounding steps of the largest weights.
    assert _furthest(one, two) < 4e-3
    for folder in (one, two):
        assert json.loads((folder / "checkpoint-6" / "config.json").read_text())["dtype"] == (
            "bfloat16"
        )
    state = torch.load(two / "checkpoint-6" / TRAINER_STATE, weights_only=True)
    assert {part.dtype for part in state["extra"]["parts"]} == {torch.bfloat16}
    # The state of one process holds no second copy of the weights.
    alone = torch.load(one / "checkpoint-6" / TRAINER_STATE, weights_only=True)
    assert not alone["extra"]


def test_no_process_reads_the_state_of_another(spec: TrainingSpec, tmp_path: Path) -> None:
    two = tmp_path / "two"
    two.mkdir()
    in_processes(spec, two, lambda: newest_with_state(two) is not None)
    checkpoint = newest_with_state(two)
    assert checkpoint is not None
    with pytest.raises(BadInput, match="saved by 2 processes, so that 1 cannot"):
        train(replace(spec, processes=1), two)
    # What the first process saved is of no use to the second, whose own file is damaged.
    (checkpoint / f".{TRAINER_STATE}.1").write_bytes(b"half")
    said = error_in_processes(spec, two)
    assert f"{checkpoint.name}: this checkpoint cannot be read" in said


def test_an_adapter_is_merged_before_the_weights_are_spread_or_kept_in_main_memory(
    spec: TrainingSpec, tmp_path: Path
) -> None:
    lora = Training(rank=4, learning_rate=1e-2, batch_size=4, max_steps=2)
    first = _alone(replace(spec, settings=lora), tmp_path / "first")
    merged = replace(
        spec, adapter=first / "checkpoint-2", settings=replace(FULL, max_steps=2, save_at=())
    )
    one, two = _alone(merged, tmp_path / "one"), tmp_path / "two"
    with merged_whole(merged, tmp_path) as whole_base:
        _spread(whole_base, two)
    assert _furthest(one, two, step=2) < 2e-6
    # By the launcher, in one process that keeps its weights in main memory.
    launched = tmp_path / "launched"
    launched.mkdir()
    train(replace(merged, processes=1, settings=replace(merged.settings, offload=True)), launched)
    assert _furthest(one, launched, step=2) < 2e-6
    assert not list(launched.glob(".*"))


def test_moments_of_eight_bits_are_close_and_resume_to_the_same_bytes(
    spec: TrainingSpec, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    alone = replace(spec, processes=1, settings=EIGHT)
    eight = _alone(alone, tmp_path / "eight")
    exact = _alone(replace(alone, settings=FULL), tmp_path / "exact")
    # Six steps of 1e-3, with moments that are rounded to 8 bits.
    assert 0 < _furthest(eight, exact) < 4e-3
    state = torch.load(eight / "checkpoint-6" / TRAINER_STATE, weights_only=True)
    moments = [
        value
        for entry in state["optimizer"]["state"].values()
        for value in entry["__bnb_optimizer_quant_state__"].values()
    ]
    assert torch.uint8 in {moment.dtype for moment in moments}
    cut = tmp_path / "cut"
    cut.mkdir()
    with pytest.raises(Cut):
        train(alone, cut, cut_at(0.5))
    train(alone, cut)
    assert _furthest(cut, eight) == 0.0
    two = _spread(replace(spec, settings=EIGHT), tmp_path / "two")
    # Other blocks are rounded, and weights of fewer than 4096 elements are not.
    assert _furthest(two, exact) < 4e-3


def test_a_large_model_is_written_in_several_files(
    spec: TrainingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _alone(spec, tmp_path / "one")
    monkeypatch.setattr(whole, "FILE_BYTES", 40_000)
    many = _alone(spec, tmp_path / "many")
    files = list((many / "checkpoint-6").glob("model-*-of-*.safetensors"))
    assert len(files) > 2
    models = [
        load_fresh(BaseModel(str(folder / "checkpoint-6")), "fp32")[0].state_dict()
        for folder in (one, many)
    ]
    assert all(torch.equal(weight, models[1][name]) for name, weight in models[0].items())
    # Each process reads its part of every file.
    again = replace(spec, base=BaseModel(str(many / "checkpoint-6")))
    still = replace(again, settings=replace(FULL, learning_rate=0.0, max_steps=1))
    two = _spread(still, tmp_path / "two")
    expected = {n: w for n, w in models[1].items() if n != "lm_head.weight"}
    weights = load_file(two / "checkpoint-1" / MODEL)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())


def test_a_base_that_lacks_a_weight_is_named(spec: TrainingSpec, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = tmp_path / "base"
    model, tokenizer = load_fresh(spec.base, "fp32")
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    weights = load_file(base / MODEL)
    del weights["model.norm.weight"]
    save_file(weights, base / MODEL)
    folder = tmp_path / "two"
    folder.mkdir()
    said = error_in_processes(replace(spec, base=BaseModel(str(base))), folder)
    assert "its files hold no weight model.norm.weight" in said


def test_parts_of_different_sizes_equal_one_process(spec: TrainingSpec, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(spec.base.location)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 1,
        hidden_size=40,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = replace(FULL, batch_size=3, learning_rate=1e-4)
    odd = replace(spec, base=BaseModel(str(tmp_path / "base")), settings=settings, processes=3)
    one, three = _alone(odd, tmp_path / "one"), _spread(odd, tmp_path / "three")
    assert _furthest(one, three) < 2e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "bf16"}, 'weights="bf16" needs precision="bf16"'),
        ({"weights": "bf16", "precision": "bf16", "optimizer": "soap"}, 'other than "soap"'),
        ({"offload": True, "method": "lora"}, 'settings of method="full"'),
        ({"weights": "bf16", "precision": "bf16", "method": "lora"}, 'settings of method="full"'),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        replace(FULL, **changes)
