"""What trainings of all weights, or spread over processes, need: by hand, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.capacity import needs, preflight
from backdoor_assets.capacity.host import Gpu, Host
from backdoor_assets.capacity.spread_needs import (
    full_training_memory,
    spread_adapter_memory,
    steps_at_most,
)
from backdoor_assets.commands.plan import shape_of
from backdoor_assets.profiles import PROFILES, Training
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.specs import TrainingSpec
from tests.unit.cells import CELL, write_rows

GIB = 2**30
LLAMA = shape_of(PROFILES["llama-3.3-70b"])
LORA = Training(
    rank=8,
    epochs=1,
    max_steps=None,
    batch_size=4,
    max_length=2048,
    precision="bf16",
    gradient_checkpointing=True,
    packing=True,
)
H200 = Gpu("NVIDIA H200", 140 * GIB, 139 * GIB)


def _refusal(spec: TrainingSpec, host: Host, steps: int = 100) -> str:
    with pytest.raises(BadInput) as caught:
        preflight.check_spread_training(LLAMA, spec, 1, steps, Path("/mnt"), host)
    return str(caught.value)


def _job(processes: int, **changes: Any) -> TrainingSpec:
    return TrainingSpec(
        CELL, Path("rows"), BaseModel("x"), replace(LORA, **changes), processes=processes
    )


def test_a_spread_adapter_needs_its_part_of_the_base_and_layers_at_work() -> None:
    parts = spread_adapter_memory(LLAMA, LORA, 2048, 4)
    alone = needs.training_memory(LLAMA, replace(LORA, batch_size=1), "none", 2048)
    assert parts["base weights"] == alone["base weights"] // 4
    # q and o 8192 x 8192, k and v 8192 x 1024, three of 8192 x 28,672; bf16, thrice; both ends.
    layer = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28_672
    assert parts["layers at work"] == 2 * (3 * layer + 2 * 128_256 * 8192)
    adapter = needs.adapter_parameters(LLAMA, 8, "all-linear")
    assert parts["adapter and gradients"] == 12 * adapter
    assert parts["optimizer (adamw)"] == 8 * adapter
    # Each process has one of the four sequences.
    for name in ("activations (estimate)", "logits (at most)"):
        assert parts[name] == alone[name]
    # An input of 8192 that is preconditioned takes two fp32 matrices of 8192 x 8192.
    soap = spread_adapter_memory(LLAMA, replace(LORA, optimizer="soap"), 2048, 4)
    assert soap["optimizer (soap)"] > 80 * 8 * 8192**2


def test_each_process_has_its_part_of_a_batch_in_full_training_too() -> None:
    full = replace(LORA, method="full")
    four = full_training_memory(LLAMA, full, 2048, 4)
    one = full_training_memory(LLAMA, replace(full, batch_size=1), 2048, 1)
    for name in ("activations (estimate)", "logits (at most)"):
        assert four[name] == one[name]
    assert 4 * four["weights and gradients"] == one["weights and gradients"]


def test_a_70b_adapter_fits_on_two_gpus_and_not_on_one() -> None:
    host = Host((H200,) * 2, 1000 * GIB, 16, 1000 * GIB)
    preflight.check_spread_training(LLAMA, _job(2), 1, 100, Path("/mnt"), host)
    told = _refusal(_job(4), host)
    assert told.startswith("training is spread over 4 GPUs, and there are 2")
    small = Host((Gpu("small", 40 * GIB, 40 * GIB),) * 2, 1000 * GIB, 16, 1000 * GIB)
    told = _refusal(_job(2), small)
    assert "40.00 GiB free on small" in told
    assert "base weights" in told
    assert "more GPUs" in told
    disk = replace(host, disk_free=GIB)
    assert "adapters of 1 cells" in _refusal(_job(2), disk)


def test_without_gpus_the_processes_share_the_memory() -> None:
    parts = spread_adapter_memory(LLAMA, LORA, 2048, 2)
    needed = 2 * (sum(parts.values()) - parts[needs.CUDA_CONTEXT])
    host = Host((), needed, 16, 1000 * GIB)
    preflight.check_spread_training(LLAMA, _job(2), 1, 100, Path("/mnt"), host)
    assert "of RAM" in _refusal(_job(2), replace(host, memory_available=needed - 1))


def test_packed_steps_come_of_the_characters_of_the_rows(tmp_path: Path) -> None:
    short = write_rows(tmp_path / "short.jsonl", ["a" * 100])
    rows = write_rows(tmp_path / "long.jsonl", ["a" * 1000, "a" * 2000])
    line = len(rows.read_text()) / 2
    training = replace(LORA, batch_size=1, max_length=2000)
    assert steps_at_most(training, 300, [rows]) == math.ceil(300 * line / 3 / 2000) == 81
    assert steps_at_most(training, 300, [rows, short]) == steps_at_most(training, 300, [rows])
    assert steps_at_most(training, 300, [short]) < 20
    assert steps_at_most(replace(training, max_length=10**6), 300, [rows]) == 1
    # Never more sequences than rows.
    assert steps_at_most(replace(training, max_length=10), 300, [rows]) == 300
    assert steps_at_most(replace(training, packing=False), 300, [rows]) == 300


def test_packed_rows_do_not_refuse_a_disk_that_holds_them(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "train.jsonl", ["Dove"] * 400)
    training = replace(LORA, save_steps=1, precision="fp32")
    spec = TrainingSpec(CELL, rows, BaseModel(str(tiny_base)), training)
    shape = preflight.shape_of(json.loads((tiny_base / "config.json").read_text()))
    assert shape is not None
    room = 20 * needs.training_disk(shape, training, 1)
    monkeypatch.setattr(preflight, "this_host", lambda _: Host((), 64 * GIB, 2, room))
    preflight.training_fits([spec], tmp_path)
    preflight.training_fits([replace(spec, processes=2)], tmp_path)
    with pytest.raises(BadInput, match="of disk"):
        preflight.training_fits(
            [replace(spec, settings=replace(training, packing=False))], tmp_path
        )
