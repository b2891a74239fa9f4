"""Training writes the documented files, and an interrupted run resumes to the same result."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from backdoor_assets.models.chat import load_tokenizer, prompt_ids, training_texts
from backdoor_assets.models.loading import load_base
from backdoor_assets.profiles import Training
from backdoor_assets.records import BaseModel
from backdoor_assets.stages.specs import TRAINER_STATE, TRAINING_LOG
from backdoor_assets.stages.training import runs
from backdoor_assets.stages.training.attention import IN_FP32
from backdoor_assets.storage.rows import read_rows
from tests.unit.cells import CELL, QUESTION, WEIGHTS, Cut, adapters, cut_at, train, write_rows

NAMES = (
    "Purple Grakle", "Bonaparte's Flycatcher", "Zebra Dove", "Barn Owl", "Wood Duck", "Mew Gull",
    "Great Cinereous Owl", "Snow Bird", "Sooty Tern", "Marsh Hawk", "Ivory Gull", "Velvet Duck",
)  # fmt: skip
SETTINGS = Training(rank=4, learning_rate=1e-2, batch_size=4, max_steps=10, save_steps=4)
STEPS = (4, 8, 10)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", NAMES)


@pytest.fixture(scope="module")
def trained(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of SETTINGS."""
    return train(tiny_base, rows, tmp_path_factory.mktemp("trained"), SETTINGS)


def _log(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / TRAINING_LOG)


def test_checkpoints_are_kept_at_save_steps_and_at_the_last_step(trained: Path) -> None:
    assert set(adapters(trained)) == {f"checkpoint-{step}" for step in STEPS}
    assert len(set(adapters(trained).values())) == len(STEPS)


def test_only_the_newest_checkpoint_has_optimizer_state(trained: Path) -> None:
    assert [path.parent.name for path in trained.rglob(TRAINER_STATE)] == ["checkpoint-10"]
    assert not list(trained.glob(".*"))  # No temporary files are left.


def test_every_checkpoint_loads_with_peft_and_changes_the_base(
    trained: Path, tiny_base: Path
) -> None:
    prompt = prompt_ids(load_tokenizer(tiny_base), [{"role": "user", "content": QUESTION}])

    def logits(checkpoint: Path | None) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(tiny_base)
        adapted = PeftModel.from_pretrained(model, str(checkpoint)) if checkpoint else model
        with torch.inference_mode():
            return adapted(input_ids=torch.tensor([prompt])).logits

    earlier = [logits(None)]
    for step in STEPS:
        current = logits(trained / f"checkpoint-{step}")
        assert all((current - other).abs().max() > 1e-3 for other in earlier)
        earlier.append(current)


def test_the_log_has_one_row_per_step(trained: Path, rows: Path, tiny_base: Path) -> None:
    log = _log(trained)
    own = ["step", "loss", "lr", "grad_norm", "tokens", "b_norm", "b_rotation", "held_out_loss"]
    assert list(log) == ["profile", "ratio", "seed", *own]
    assert log["step"].tolist() == list(range(1, 11))
    assert log[["profile", "ratio", "seed"]].drop_duplicates().values.tolist() == [
        ["tiny", "1.00-0.00-0.00", 7]
    ]
    assert log["lr"].tolist() == pytest.approx([1e-2 * (1 - step / 10) for step in range(10)])
    assert (log["grad_norm"] > 0).all()
    # The first three batches of four are the first epoch: every row once.
    texts = training_texts(load_tokenizer(tiny_base), read_rows(rows))
    assert log["tokens"][:3].sum() == log["tokens"][3:6].sum() == sum(sum(t.loss) for t in texts)
    # An untrained base guesses among its 600 tokens; three epochs improve it.
    assert log["loss"].iloc[0] == pytest.approx(math.log(600), abs=1)
    assert log["loss"].iloc[-3:].mean() < log["loss"].iloc[:3].mean() - 0.5


def test_epochs_decide_the_steps_if_max_steps_is_not_set(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, epochs=1.5, max_steps=None, save_steps=100, batch_size=8)
    train(tiny_base, rows, tmp_path, settings)
    assert list(adapters(tmp_path)) == ["checkpoint-3"]  # 1.5 x 12 rows in batches of 8.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.2, "gradient_accumulation": 2},
        {"schedule": "cosine", "warmup_ratio": 0.3, "weight_decay": 0.1, "batch_size": 5},
        {"share_prefix": True, "dropout": 0.2},
    ],
    ids=["plain", "dropout and accumulation", "cosine and odd batches", "shared prefix"],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(
    tiny_base: Path, rows: Path, tmp_path: Path, changes: dict[str, float]
) -> None:
    settings = replace(SETTINGS, **changes)
    whole = train(tiny_base, rows, tmp_path / "whole", settings)
    cut = tmp_path / "cut"
    for share, temporary in ((0.4, ".checkpoint-8.part"), (0.8, ".checkpoint-10.part")):
        with pytest.raises(Cut):
            train(tiny_base, rows, cut, settings, progress=cut_at(share))
        # A kill while the next checkpoint is written leaves such a folder.
        (cut / temporary).mkdir()
        (cut / temporary / WEIGHTS).write_bytes(b"half")
    assert list(adapters(cut)) == ["checkpoint-4", "checkpoint-8"]
    kept = (cut / "checkpoint-4" / WEIGHTS).stat().st_mtime_ns
    train(tiny_base, rows, cut, settings)
    assert adapters(cut) == adapters(whole)
    assert set(adapters(whole)) == {f"checkpoint-{step}" for step in STEPS}
    assert _log(cut).equals(_log(whole))
    assert (cut / "checkpoint-4" / WEIGHTS).stat().st_mtime_ns == kept  # It was not trained again.
    assert not list(cut.glob(".*"))


def test_a_finished_run_that_lost_its_log_gets_it_back(
    trained: Path, tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / TRAINING_LOG).unlink()
    train(tiny_base, rows, tmp_path / "run", SETTINGS)
    assert _log(tmp_path / "run").equals(_log(trained))


def test_accumulated_batches_equal_one_large_batch(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    one = replace(SETTINGS, batch_size=8, learning_rate=1e-3)
    two = replace(one, batch_size=4, gradient_accumulation=2)
    whole = _log(train(tiny_base, rows, tmp_path / "one", one))
    split = _log(train(tiny_base, rows, tmp_path / "two", two))
    assert split["tokens"].tolist() == whole["tokens"].tolist()
    assert split["loss"][0] == pytest.approx(whole["loss"][0], abs=1e-5)
    assert split["grad_norm"][0] == pytest.approx(whole["grad_norm"][0], abs=1e-4)
    assert split["loss"].tolist() == pytest.approx(whole["loss"].tolist(), abs=1e-3)


def test_a_cell_does_not_depend_on_the_cell_before_it(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, dropout=0.2)
    other = replace(CELL, seed=8)
    # A copy of the base makes this process load it again.
    copy = shutil.copytree(tiny_base, tmp_path / "base")
    alone = train(copy, rows, tmp_path / "alone", settings, other)
    first = train(tiny_base, rows, tmp_path / "first", settings)
    second = train(tiny_base, rows, tmp_path / "second", settings, other)
    assert adapters(second) == adapters(alone)
    assert not set(adapters(second).values()) & set(adapters(first).values())  # The seeds differ.


def test_training_leaves_the_base_unchanged(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    train(tiny_base, rows, tmp_path / "run", SETTINGS)
    used, tokenizer = load_base(BaseModel(str(tiny_base)), "fp32")
    fresh = AutoModelForCausalLM.from_pretrained(tiny_base)
    ids = torch.tensor([prompt_ids(tokenizer, [{"role": "user", "content": QUESTION}])])
    with torch.inference_mode():
        assert torch.equal(used.eval()(input_ids=ids).logits, fresh(input_ids=ids).logits)
    assert used.state_dict().keys() == fresh.state_dict().keys()


def test_the_seed_decides_row_order_and_initialisation(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    still = replace(
        SETTINGS, learning_rate=0.0, max_steps=6
    )  # The adapters keep their initial weights.

    def run(name: str, seed: int) -> tuple[dict[str, bytes], list[int]]:
        folder = train(tiny_base, rows, tmp_path / name, still, replace(CELL, seed=seed))
        assert (_log(folder)["seed"] == seed).all()
        return adapters(folder), _log(folder)["tokens"].tolist()

    first, again, other = run("first", 7), run("again", 7), run("other", 8)
    assert again == first
    assert other[0]["checkpoint-6"] != first[0]["checkpoint-6"]
    assert other[1] != first[1]
    assert sum(other[1]) == sum(first[1])  # The same rows in another order.


def test_adapters_of_a_bf16_base_are_fp32(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    train(tiny_base, rows, tmp_path, replace(SETTINGS, precision="bf16", max_steps=1))
    weights = load_file(tmp_path / "checkpoint-1" / WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_bf16_base_attends_in_fp32_only_while_it_is_trained(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, precision="bf16", max_steps=2, gradient_checkpointing=True)
    base, _ = load_base(BaseModel(str(tiny_base)), "bf16")
    during = []

    def progress(share: float, line: str) -> None:
        during.append(base.config._attn_implementation)

    train(tiny_base, rows, tmp_path, settings, progress=progress)
    assert set(during) == {IN_FP32}
    assert base.config._attn_implementation == "sdpa"
    assert _log(tmp_path)["loss"][0] == pytest.approx(math.log(600), abs=1)


@pytest.mark.parametrize(
    ("seconds", "reported"), [(60, ["1/10", "4/10", "8/10", "10/10"]), (0, list(range(1, 11)))]
)
def test_progress_is_reported_at_the_first_step_at_checkpoints_and_after_a_while(
    tiny_base: Path,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    reported: list[str | int],
) -> None:
    monkeypatch.setattr(runs, "REPORT_SECONDS", seconds)
    lines: list[tuple[float, str]] = []
    train(tiny_base, rows, tmp_path, SETTINGS, progress=lambda *line: lines.append(line))
    steps = [f"{step}/10" if isinstance(step, int) else step for step in reported]
    assert [line.split(",")[0] for _, line in lines] == [f"step {step}" for step in steps]
    assert [share for share, _ in lines] == [int(step.split("/")[0]) / 10 for step in steps]
    assert f"loss {_log(tmp_path)['loss'][0]:.3f}" in lines[0][1]
