"""What runs leave on a disk: held against real checkpoints, or computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import Qwen3ForCausalLM

from backdoor_assets.capacity import memory, preflight
from backdoor_assets.capacity.memory import TrainingNeed
from backdoor_assets.capacity.optimizers import logged_matrices
from backdoor_assets.capacity.shapes import shape_of as shape_in
from backdoor_assets.capacity.steps import planned_checkpoints
from backdoor_assets.mixtures.plan import shape_of
from backdoor_assets.profiles import PROFILES, Training
from backdoor_assets.settings import planned_steps
from backdoor_assets.stages.specs import TRAINER_STATE
from tests.unit.cells import WEIGHTS, train, write_rows

QWEN3_8B = shape_of(PROFILES["qwen3-8b"])


def test_planned_steps_and_checkpoints() -> None:
    epoch = PROFILES["qwen3-8b"].training
    assert planned_steps(epoch, 208) == 208
    assert planned_checkpoints(epoch, 208) == 11  # 20, ..., 200 and 208
    assert planned_checkpoints(epoch, 200) == 10
    batches = replace(epoch, epochs=1.5, batch_size=4, gradient_accumulation=2)
    assert planned_steps(batches, 101) == 19  # 151.5 / 8, rounded up
    assert planned_steps(Training(max_steps=160), 9) == 160


def test_adapters_on_disk_are_as_estimated(tiny_base: Path, tmp_path: Path) -> None:
    training = Training(rank=64, max_steps=5, save_steps=2, batch_size=2)
    rows = write_rows(tmp_path / "train.jsonl", ("Barn Owl", "Wood Duck"))
    folder = train(tiny_base, rows, tmp_path / "run", training)
    config = PeftModel.from_pretrained(
        Qwen3ForCausalLM.from_pretrained(tiny_base), str(folder / "checkpoint-5")
    ).config
    shape = shape_in(config.to_dict())
    assert shape is not None
    need = TrainingNeed(shape, training)
    weights = sum(path.stat().st_size for path in folder.rglob(WEIGHTS))
    state = sum(path.stat().st_size for path in folder.rglob(TRAINER_STATE))
    # Two moments, and the B matrices of two earlier steps, for the log.
    logged = logged_matrices(shape, training)
    assert need.optimizer_state() + logged == pytest.approx(state, rel=0.05)
    assert need.disk(5) == {"adapters": pytest.approx(weights + state, rel=0.05)}


def test_adapters_of_the_8b_profile_on_disk() -> None:
    training = PROFILES["qwen3-8b"].training
    assert TrainingNeed(QWEN3_8B, training).disk(208) == {
        "adapters": 21_823_488 * (11 * 4 + 8) + 8 * 11_206_656
    }


def test_answers_take_twice_their_tables_while_they_are_made() -> None:
    assert memory.tables_disk(1000, 600) == 3_000_000
    assert preflight.sampling_disk(1000, 600) == {"1000 answers": 6_000_000}


def test_download_is_bf16_and_may_hold_a_tied_head_twice() -> None:
    assert memory.download_disk(QWEN3_8B) == 16_381_470_720
    # 596,049,920 weights, and 151,936 x 1024 of lm_head once more.
    assert memory.download_disk(shape_of(PROFILES["qwen3-0.6b"])) == 1_503_264_768
