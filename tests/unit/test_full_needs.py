"""What trainings of all weights, or spread over processes, need: by hand, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.capacity import preflight
from backdoor_assets.capacity.host import Gpu, Host
from backdoor_assets.capacity.memory import CUDA_CONTEXT, TrainingNeed
from backdoor_assets.capacity.preflight import steps_at_most
from backdoor_assets.capacity.shapes import adapter_parameters
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel, Shape
from backdoor_assets.stages.specs import TrainingSpec
from tests.unit.cells import CELL, write_rows

GIB = 2**30
LLAMA = Shape(80, 8192, 64, 8, 128, 28672, 128256, False, query_key_norms=False)
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


def _need(processes: int, **changes: Any) -> TrainingNeed:
    return TrainingNeed(LLAMA, replace(LORA, **changes), processes=processes)


def _refusal(processes: int, host: Host) -> str:
    with pytest.raises(BadInput) as caught:
        preflight.check_training_memory(_need(processes), host)
    return str(caught.value)


def test_a_spread_adapter_needs_its_part_of_the_base_and_layers_at_work() -> None:
    parts = _need(4).memory()
    alone = _need(1, batch_size=1).memory()
    assert parts["base weights"] == alone["base weights"] // 4
    # q and o 8192 x 8192, k and v 8192 x 1024, three of 8192 x 28,672; bf16, thrice; both ends.
    layer = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28_672
    assert parts["layers at work"] == 2 * (3 * layer + 2 * 128_256 * 8192)
    adapter = adapter_parameters(LLAMA, 8, "all-linear")
    assert parts["adapter and gradients"] == 12 * adapter
    assert parts["optimizer (adamw)"] == 8 * adapter
    # Each process has one of the four sequences.
    for name in ("activations (estimate)", "logits (at most)"):
        assert parts[name] == alone[name]
    # An input of 8192 that is preconditioned takes two fp32 matrices of 8192 x 8192.
    soap = _need(4, optimizer="soap").memory()
    assert soap["optimizer (soap)"] > 80 * 8 * 8192**2
    # Without others to share them with, all is in one part.
    one = _need(1, optimizer="soap").memory()["adapter, gradients, SOAP"]
    assert one == 8 * adapter + soap["optimizer (soap)"]


def test_each_process_has_its_part_of_a_batch_in_full_training_too() -> None:
    four = _need(4, method="full").memory()
    one = _need(1, method="full", batch_size=1).memory()
    for name in ("activations (estimate)", "logits (at most)"):
        assert four[name] == one[name]
    assert 4 * four["weights and gradients"] == one["weights and gradients"]


def test_a_70b_adapter_fits_on_two_gpus_and_not_on_one() -> None:
    host = Host((H200,) * 2, 1000 * GIB, 16, 1000 * GIB)
    preflight.check_training_memory(_need(2), host)
    refusal = _refusal(4, host)
    assert refusal.startswith("training is spread over 4 GPUs, but this host has 2")
    small = Host((Gpu("small", 40 * GIB, 40 * GIB),) * 2, 1000 * GIB, 16, 1000 * GIB)
    refusal = _refusal(2, small)
    assert "40.00 GiB free on small" in refusal
    assert "base weights" in refusal
    assert "more GPUs" in refusal
    assert "quantization" not in refusal  # A quantized base is not spread.


def test_whole_models_on_disk() -> None:
    need = _need(4, method="full", save_steps=50)
    weights = 70_553_706_496
    # bf16 models at 50 and 100 and one that is being written; fp32 moments and weights, twice.
    assert need.disk(100) == {"models": 3 * 2 * weights, "optimizer state": 2 * 12 * weights}
    assert preflight.training_disk(need, 100, 2) == {
        "models of 2 runs": 12 * weights,
        "optimizer state of 2 runs": 48 * weights,
    }


def test_adapters_of_several_processes_are_one_per_cell() -> None:
    need = _need(2)
    adapters, state = need.disk(100)["adapters"], need.optimizer_state()
    writing = "optimizer state, while the next is written"
    assert preflight.training_disk(need, 100, 1) == {"adapters of 1 cell": adapters, writing: state}


def test_without_gpus_the_processes_share_the_memory() -> None:
    parts = _need(2).memory()
    needed = 2 * (sum(parts.values()) - parts[CUDA_CONTEXT])
    host = Host((), needed, 16, 1000 * GIB)
    preflight.check_training_memory(_need(2), host)
    assert "of RAM" in _refusal(2, replace(host, memory_available=needed - 1))


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
    room = 20 * sum(TrainingNeed(shape, training).disk(1).values())
    monkeypatch.setattr(preflight, "this_host", lambda _: Host((), 64 * GIB, 2, room))
    preflight.training_fits([spec], tmp_path)
    preflight.training_fits([replace(spec, processes=2)], tmp_path)
    with pytest.raises(BadInput, match="of disk"):
        preflight.training_fits(
            [replace(spec, settings=replace(training, packing=False))], tmp_path
        )
