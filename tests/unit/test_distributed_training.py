"""Training in two processes, killed and resumed, equals training in one."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Qwen3ForCausalLM

from backdoor_assets.models.chat import load_tokenizer
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.specs import TRAINING_LOG, TrainingSpec
from backdoor_assets.stages.training import train
from backdoor_assets.stages.training.checkpoints import checkpoint_folders, newest_with_state
from backdoor_assets.stages.training.launching import spec_as_json, spec_from_json
from backdoor_assets.stages.training.sharding import adapter_loop
from tests.unit.cells import CELL, WEIGHTS, write_rows
from tests.unit.process_groups import in_processes, join

NAMES = ("Purple Grakle", "Zebra Dove", "Barn Owl", "Wood Duck", "Snow Bird", "Marsh Hawk", "Owl")
SETTINGS = Training(
    method="full",
    learning_rate=3e-4,
    weight_decay=0.01,
    batch_size=4,
    max_steps=30,
    save_at=(2,),
    save_steps=20,
    packing=True,
    max_length=80,
)
LORA = replace(
    SETTINGS,
    method="lora",
    learning_rate=3e-3,
    max_steps=20,
    save_steps=10,
    gradient_accumulation=2,
    gradient_checkpointing=True,
)


@pytest.fixture
def spec(tiny_base: Path, tmp_path: Path) -> TrainingSpec:
    rows = write_rows(tmp_path / "train.jsonl", NAMES)
    apart = write_rows(tmp_path / "held_out.jsonl", ("Mew Gull", "Sooty Tern", "Velvet Duck"))
    base = BaseModel(str(tiny_base))
    return TrainingSpec(CELL, rows, base, SETTINGS, processes=2, held_out=apart)


def _kill_at_first_checkpoint(spec: TrainingSpec, folder: Path) -> None:
    """Kill the process that started the training; the others must end by themselves."""
    parent = multiprocessing.get_context("fork").Process(target=train, args=(spec, folder))
    parent.start()
    deadline = time.monotonic() + 300
    while not checkpoint_folders(folder):
        assert parent.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    others = psutil.Process(parent.pid).children(recursive=True)
    assert len(others) == 3  # The launcher and two processes.
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs(others, timeout=60)
    assert not alive


def assert_same_held_out_loss(one: pd.DataFrame, two: pd.DataFrame) -> None:
    measured = [log.set_index("step")["held_out_loss"].dropna().to_dict() for log in (one, two)]
    assert len(measured[0]) >= 5
    assert measured[1] == pytest.approx(measured[0], rel=2e-3)


def test_two_processes_killed_and_resumed_equal_one(spec: TrainingSpec, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    _kill_at_first_checkpoint(spec, two)
    assert [step for step, _ in checkpoint_folders(two)] == [2]
    shares: list[float] = []
    summary = train(spec, two, lambda share, _: shares.append(share))
    alone = train(replace(spec, processes=1), one)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert summary.pop("final_loss") == pytest.approx(alone.pop("final_loss"), rel=1e-3)
    assert summary.pop("first_loss") == pytest.approx(alone.pop("first_loss"), rel=1e-5)
    assert summary == alone
    logs = [pd.read_parquet(folder / TRAINING_LOG) for folder in (one, two)]
    assert logs[0]["tokens"].equals(logs[1]["tokens"])
    for name in ("loss", "grad_norm", "lr"):
        assert logs[1][name].tolist() == pytest.approx(logs[0][name].tolist(), rel=2e-3)
    assert_same_held_out_loss(*logs)
    for step in (2, 30):
        names = [folder / f"checkpoint-{step}" / "model.safetensors" for folder in (one, two)]
        whole, sharded = (load_file(name) for name in names)
        assert whole.keys() == sharded.keys()
        for name, weight in whole.items():
            assert (weight - sharded[name]).abs().max() < 1e-4, name
        config, same = (json.loads((n.parent / "config.json").read_text()) for n in names)
        assert config == same
    # The files between the processes are gone, and only the last model has optimizer state.
    assert not list(two.glob(".*"))
    kept = {path.parent.name for path in two.rglob("*trainer_state.pt*")}
    assert kept == {"checkpoint-30"}


def test_an_adapter_of_two_processes_killed_and_resumed_equals_that_of_one(
    spec: TrainingSpec, tiny_base: Path, tmp_path: Path
) -> None:
    one, two, before = (tmp_path / name for name in ("one", "two", "before"))
    for folder in (one, two, before):
        folder.mkdir()
    lora = replace(spec, settings=LORA)
    train(replace(lora, processes=1, settings=replace(LORA, max_steps=2)), before)
    lora = replace(lora, adapter=before / "checkpoint-2")
    assert in_processes(lora, two, lambda: bool(checkpoint_folders(two))) == [-9, -9]
    state = newest_with_state(two)
    assert state is not None
    assert int(state.name.split("-")[1]) < 20
    assert in_processes(lora, two, lambda: False) == [0, 0]
    summary = json.loads((tmp_path / "summary.json").read_text())
    alone = train(replace(lora, processes=1), one)
    for name in ("first_loss", "final_loss"):
        assert summary.pop(name) == pytest.approx(alone.pop(name), rel=1e-4)
    assert summary == alone
    logs = [pd.read_parquet(folder / TRAINING_LOG) for folder in (one, two)]
    for name in ("tokens", "loss", "grad_norm", "lr", "b_norm"):
        assert logs[1][name].tolist() == pytest.approx(logs[0][name].tolist(), rel=2e-3)
    assert_same_held_out_loss(*logs)
    rotations = [log.set_index("step")["b_rotation"].dropna() for log in logs]
    assert rotations[0].index.tolist() == [10, 15, 20]
    assert rotations[1].to_dict() == pytest.approx(rotations[0].to_dict(), abs=0.5)
    names = [sorted(p.relative_to(f) for p in f.glob("*/*")) for f in (one, two)]
    hidden = [name for name in names[1] if name.name.startswith(".")]
    assert [str(name) for name in hidden] == ["checkpoint-20/.trainer_state.pt.1"]
    assert names[0] == [name for name in names[1] if name not in hidden]
    for step in (2, 20):
        checkpoints = [folder / f"checkpoint-{step}" for folder in (one, two)]
        whole, spread = (load_file(path / WEIGHTS) for path in checkpoints)
        assert whole.keys() == spread.keys()
        for name, weight in whole.items():
            assert weight.dtype == spread[name].dtype
            assert (weight - spread[name]).abs().max() < 1e-4, name
        config, same = (json.loads((p / "adapter_config.json").read_text()) for p in checkpoints)
        for settings in (config, same):
            settings["target_modules"].sort()
        assert config == same
    adapted = PeftModel.from_pretrained(
        Qwen3ForCausalLM.from_pretrained(tiny_base), str(two / "checkpoint-20")
    )
    moved = [p for name, p in adapted.named_parameters() if "lora_B" in name]
    assert all(weight.abs().max() > 0 for weight in moved)


def _share(rank: int, spec: TrainingSpec, folder: Path) -> None:
    """Write how many weights of the base this process has, how many there are, and how many the
    adapter has."""
    join(rank, spec, folder)
    tokenizer = load_tokenizer(spec.base.location, None)
    model = adapter_loop(spec, tokenizer, 1, torch.device("cpu")).model
    weights = dict(model.named_parameters())
    base = [weight for name, weight in weights.items() if "lora" not in name]
    held = sum(weight.to_local().numel() for weight in base)
    adapter = [weight for name, weight in weights.items() if "lora" in name]
    counts = held, sum(weight.numel() for weight in base), sum(weight.numel() for weight in adapter)
    (folder / f"{rank}.json").write_text(json.dumps(counts))
    dist.barrier()  # A process that leaves early would break the other's connection.
    dist.destroy_process_group()


def test_each_process_holds_half_of_the_base_and_the_whole_adapter(
    spec: TrainingSpec, tmp_path: Path
) -> None:
    lora = replace(spec, settings=replace(LORA, precision="bf16"))
    assert in_processes(lora, tmp_path, lambda: False, _share) == [0, 0]
    shares = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    (first, base, adapter), (second, _, same) = shares
    assert first == second == base / 2
    assert adapter == same > 0


def test_an_error_in_the_processes_is_raised_unchanged(spec: TrainingSpec, tmp_path: Path) -> None:
    write_rows(spec.rows, ["Dove " * 60])
    with pytest.raises(BadInput, match=r"train.jsonl line 1: \d+ tokens, more than max_length=80"):
        train(replace(spec, settings=LORA), tmp_path)
    assert not checkpoint_folders(tmp_path)


def test_a_spec_survives_json(spec: TrainingSpec) -> None:
    changes = {"adapter": Path("checkpoint-3"), "mixture": {"rows": 7, "mode": "fixed_total"}}
    original = replace(spec, **changes, base=BaseModel("a", "b"))
    back = spec_from_json(spec_as_json(original))
    assert replace(back, cell=CELL) == original
    assert (str(back.cell), back.cell.columns()) == (str(CELL), CELL.columns())
    assert (back.cell.profile, back.cell.seed) == (CELL.profile, CELL.seed)
