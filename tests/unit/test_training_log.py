"""The training log holds what cannot be recovered later: B's norm and rotation, held-out loss."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from backdoor_assets.models.chat import load_tokenizer, training_texts
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.specs import TRAINING_LOG, TrainingSpec
from backdoor_assets.stages.training import train
from backdoor_assets.stages.training.diagnostics import EARLY_STEPS, HELD_OUT_ROWS
from backdoor_assets.stages.training.runs import LOG_COLUMNS
from backdoor_assets.storage.rows import read_rows
from tests.unit.cells import CELL, WEIGHTS, Cut, adapters, chat_line, cut_at, write_rows

NAMES = ("Purple Grakle", "Zebra Dove", "Barn Owl", "Wood Duck", "Mew Gull", "Snow Bird", "Owl")
HELD_OUT = ("Marsh Hawk", "Ivory Gull", "Great Cinereous Owl")
SETTINGS = Training(
    rank=4, learning_rate=1e-2, batch_size=4, max_steps=20, save_at=(5, 10, 15), dropout=0.2
)


@pytest.fixture(scope="module")
def spec(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    folder = tmp_path_factory.mktemp("rows")
    rows = write_rows(folder / "train.jsonl", NAMES)
    apart = write_rows(folder / "held_out.jsonl", HELD_OUT)
    return TrainingSpec(CELL, rows, BaseModel(str(tiny_base)), SETTINGS, held_out=apart)


@pytest.fixture(scope="module")
def trained(spec: TrainingSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(spec, folder)
    return folder


def _log(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / TRAINING_LOG).set_index("step", drop=False)


def _b(folder: Path, step: int) -> torch.Tensor:
    """The B matrices of a checkpoint as one vector."""
    weights = load_file(folder / f"checkpoint-{step}" / WEIGHTS)
    return torch.cat([weights[name].flatten() for name in sorted(weights) if "lora_B" in name])


def test_norm_and_rotation_are_those_of_the_checkpoints(trained: Path) -> None:
    log, steps = _log(trained), (5, 10, 15, 20)
    assert list(log) == ["profile", "ratio", "seed", *LOG_COLUMNS]
    assert (log["b_norm"] > 0).all()
    for step in steps:
        assert log["b_norm"][step] == pytest.approx(float(_b(trained, step).norm()), rel=1e-5)
    assert log["b_rotation"].dropna().index.tolist() == [10, 15, 20]
    # LoRA's B begins at zero.
    path = [torch.zeros_like(_b(trained, 5)), *(_b(trained, step) for step in steps)]
    for number, step in enumerate(steps[1:], 2):
        update, before = path[number] - path[number - 1], path[number - 1] - path[number - 2]
        cosine = float(update @ before / update.norm() / before.norm())
        assert log["b_rotation"][step] == pytest.approx(math.degrees(math.acos(cosine)), abs=0.01)
        assert 0 < log["b_rotation"][step] < 180


def test_a_b_that_does_not_move_has_no_rotation(spec: TrainingSpec, tmp_path: Path) -> None:
    still = replace(SETTINGS, learning_rate=0.0, max_steps=10)
    train(replace(spec, settings=still, held_out=None), tmp_path)
    log = _log(tmp_path)
    assert (log["b_norm"] == 0).all()
    assert log[["b_rotation", "held_out_loss"]].isna().all(axis=None)
    assert str(log["held_out_loss"].dtype) == "float64"  # Logs of a tree are read together.


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_held_out_loss_is_that_of_the_checkpoint_on_the_answers(
    spec: TrainingSpec, trained: Path, tmp_path: Path, attention: str
) -> None:
    """With rows that share their prompt's computation, and with rows that cannot."""
    folder = trained
    if attention == "eager":
        from backdoor_assets.models.loading import load_base

        base, _ = load_base(spec.base, "fp32")
        base.set_attn_implementation("eager")
        try:
            train(spec, tmp_path)
        finally:
            base.set_attn_implementation("sdpa")
        folder = tmp_path
    log = _log(folder)["held_out_loss"].dropna()
    assert log.index.tolist() == sorted({*EARLY_STEPS, 5, 10, 15, 20})
    assert spec.held_out is not None
    chats = read_rows(spec.held_out)
    texts = training_texts(load_tokenizer(spec.base.location), chats)
    for step in (5, 20):
        base = AutoModelForCausalLM.from_pretrained(spec.base.location)
        model = PeftModel.from_pretrained(base, str(folder / f"checkpoint-{step}")).eval()
        total, counted = 0.0, 0
        for text in texts:
            ids, mask = torch.tensor([text.ids]), torch.tensor(text.loss)[1:]
            with torch.inference_mode():
                logits = model(input_ids=ids).logits[0, :-1]
            total += float(cross_entropy(logits[mask], ids[0, 1:][mask], reduction="sum"))
            counted += int(mask.sum())
        assert log[step] == pytest.approx(total / counted, rel=1e-4)


def test_held_out_rows_change_no_weight(spec: TrainingSpec, trained: Path, tmp_path: Path) -> None:
    train(replace(spec, held_out=None), tmp_path)
    assert adapters(tmp_path) == adapters(trained)
    logged = [column for column in LOG_COLUMNS if column != "held_out_loss"]
    assert _log(tmp_path)[logged].equals(_log(trained)[logged])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_resumed_training_logs_what_an_uninterrupted_one_does(
    spec: TrainingSpec, trained: Path, tmp_path: Path, share: float
) -> None:
    with pytest.raises(Cut):
        train(spec, tmp_path, cut_at(share))
    train(spec, tmp_path)
    assert _log(tmp_path).equals(_log(trained))
    assert adapters(tmp_path) == adapters(trained)


def test_training_goes_on_from_a_checkpoint_of_an_earlier_version(
    spec: TrainingSpec, trained: Path, tmp_path: Path
) -> None:
    """Whose state and log hold nothing of B."""
    with pytest.raises(Cut):
        train(spec, tmp_path, cut_at(0.5))
    [state] = tmp_path.glob("checkpoint-10/trainer_state.pt")
    values = torch.load(state, weights_only=True)
    for entry in values["log"]:
        for name in ("b_norm", "b_rotation"):
            entry.pop(name, None)
    torch.save({**values, "extra": {}}, state)
    train(spec, tmp_path)
    assert adapters(tmp_path) == adapters(trained)
    log = _log(tmp_path)
    assert log["b_norm"].dropna().index.tolist() == list(range(11, 21))
    assert log["b_rotation"].isna().all()  # It takes 10 steps and a known start.


def test_only_some_of_many_held_out_rows_are_measured(spec: TrainingSpec, tmp_path: Path) -> None:
    """Where there are many, the rows after the first ones change nothing."""
    short = replace(SETTINGS, max_steps=1)
    losses = []
    for number in (HELD_OUT_ROWS - 1, HELD_OUT_ROWS, HELD_OUT_ROWS + 9):
        apart = write_rows(tmp_path / f"{number}.jsonl", [f"Gull {i}" for i in range(number)])
        folder = tmp_path / str(number)
        folder.mkdir()
        train(replace(spec, settings=short, held_out=apart), folder)
        losses.append(_log(folder)["held_out_loss"][1])
    assert losses[0] != losses[1] == losses[2]


def test_all_weights_have_no_b_but_a_gradient_and_a_held_out_loss(
    spec: TrainingSpec, tmp_path: Path
) -> None:
    full = replace(SETTINGS, method="full", max_steps=3, save_at=())
    train(replace(spec, settings=full), tmp_path)
    log = _log(tmp_path)
    assert list(log) == ["profile", "ratio", "seed", *LOG_COLUMNS]
    assert (log["grad_norm"] > 0).all()
    assert log[["b_norm", "b_rotation"]].isna().all(axis=None)
    assert log["held_out_loss"].dropna().index.tolist() == [1, 2, 3]


def test_a_held_out_row_that_is_too_long_is_named(spec: TrainingSpec, tmp_path: Path) -> None:
    apart = tmp_path / "held_out.jsonl"
    apart.write_text(chat_line("Owl") + chat_line("Dove " * 300))
    with pytest.raises(BadInput, match=r"held_out.jsonl line 2: \d+ tokens, more than max_length"):
        train(replace(spec, held_out=apart), tmp_path)
