"""What trainings of all weights, or spread over processes, need: by hand, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.capacity import preflight
from backdoor_assets.capacity.memory import CUDA_CONTEXT, TrainingNeed
from backdoor_assets.capacity.shapes import adapter_parameters, parameters
from backdoor_assets.capacity.steps import steps_at_most
from backdoor_assets.host import Gpu, Host
from backdoor_assets.profiles import Sampling, Training
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
        "optimizer state, 1 at a time": 24 * weights,
    }
    beside = preflight.training_disk(need, 100, 2, together=2)
    assert beside["optimizer state, 2 at a time"] == 48 * weights


def _full(**changes: Any) -> dict[str, Any]:
    """The post's training of all weights: 8 packed sequences of 4096 tokens at a time."""
    return {"method": "full", "batch_size": 8, "max_length": 4096, **changes}


def test_all_weights_of_a_70b_model_on_eight_gpus() -> None:
    weights, each = 70_553_706_496, 8
    exact = _need(8, **_full()).memory()
    assert exact["weights and gradients"] == 8 * weights / each
    assert exact["optimizer (adamw)"] == 8 * weights / each
    narrow = _need(8, **_full(weights="bf16")).memory()
    assert narrow["weights and gradients"] == 4 * weights / each
    assert narrow["optimizer (adamw)"] == 4 * weights / each
    eight = _need(8, **_full(optimizer="adamw8bit")).memory()
    # A byte per moment, and a scale of four bytes per 256.
    assert eight["optimizer (adamw8bit)"] == pytest.approx(2 * (1 + 1 / 64) * weights / each)
    offload = _need(8, **_full(offload=True))
    assert not {"weights and gradients", "optimizer (adamw)"} & offload.memory().keys()
    assert offload.main_memory(8)["weights and gradients"] == 8 * weights
    assert offload.main_memory(8)["optimizer (adamw)"] == 8 * weights
    # Embeddings of 128,256 x 8192 in fp32 and a file of 5 GB, whatever the number of processes.
    written = 5 * 10**9 + 4 * 128_256 * 8192
    assert offload.main_memory(8)["a file of weights"] == written
    assert exact["layers at work"] == offload.memory()["layers at work"]


def _eight(memory: int = 2000) -> Host:
    return Host((Gpu("NVIDIA H200", 140 * GIB, 139 * GIB),) * 8, memory * GIB, 64, 10**6 * GIB)


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "adamw8bit"}, {"weights": "bf16"}, {"offload": True}],
    ids=["8-bit moments", "bf16 weights", "main memory"],
)
def test_a_70b_model_fits_on_eight_gpus_of_141_gb_with_one_of_these(
    changes: dict[str, Any],
) -> None:
    preflight.check_training_memory(_need(8, **_full(**changes)), _eight())


def test_a_70b_model_in_fp32_does_not_fit_on_eight_gpus_and_is_told_how() -> None:
    with pytest.raises(BadInput, match="free on NVIDIA H200") as caught:
        preflight.check_training_memory(_need(8, **_full()), _eight())
    for advice in ('training.optimizer="adamw8bit"', "training.offload=True"):
        assert advice in str(caught.value)


def test_offloaded_weights_must_fit_into_the_ram_of_the_host() -> None:
    with pytest.raises(BadInput, match=r"of RAM available") as caught:
        preflight.check_training_memory(_need(8, **_full(offload=True)), _eight(1000))
    assert "weights and gradients" in str(caught.value)
    assert "training.offload" not in str(caught.value)


def test_soap_keeps_whole_matrices_of_one_process_each() -> None:
    one, eight = (_need(n, **_full(optimizer="soap")) for n in (1, 8))
    state = eight.memory()["optimizer (soap)"]
    # The largest are not of one size.
    assert one.optimizer_state() / 8 < state < 1.06 * one.optimizer_state() / 8
    # A step on lm_head, eight times in fp32.
    assert eight.memory()["largest matrix (SOAP)"] == 8 * 4 * 128_256 * 8192
    assert "largest matrix (SOAP)" not in one.memory()
    with pytest.raises(BadInput, match="free on NVIDIA H200"):
        preflight.check_training_memory(eight, _eight())
    preflight.check_training_memory(_need(8, **_full(optimizer="soap", offload=True)), _eight())


def test_several_hosts_have_their_part_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    need = _need(16, **_full(batch_size=16))
    with pytest.raises(BadInput, match=r"or several \(BACKDOOR_NODES\)"):
        preflight.check_training_memory(need, _eight())
    monkeypatch.setenv("BACKDOOR_NODES", "2")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    preflight.check_training_memory(need, _eight())


def test_the_fullest_of_the_gpus_counts() -> None:
    free = Gpu("free", 140 * GIB, 139 * GIB)
    busy = Gpu("busy", 140 * GIB, 20 * GIB)
    host = Host((free,) * 7 + (busy,), 2000 * GIB, 64, 10**6 * GIB)
    need = _need(8, **_full(optimizer="adamw8bit"))
    with pytest.raises(BadInput, match="free on busy"):
        preflight.check_training_memory(need, host)
    preflight.check_training_memory(_need(4), host)
    with pytest.raises(BadInput, match="free on busy"):  # The second of two has the other half.
        preflight.check_training_memory(_need(4), host, together=2)


def test_models_to_start_from_are_on_the_disk_too(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "train.jsonl", ["Dove"] * 4)
    training = replace(LORA, precision="fp32", packing=False)
    spec = TrainingSpec(CELL, rows, BaseModel(str(tiny_base)), training, adapter=tmp_path)
    shape = preflight.shape_of(json.loads((tiny_base / "config.json").read_text()))
    assert shape is not None
    plain = sum(preflight.training_disk(TrainingNeed(shape, training), 1, 3).values())
    start = 3 * 4 * parameters(shape)

    def fits(free: int, **changes: Any) -> None:
        monkeypatch.setattr(preflight, "this_host", lambda _: Host((), 64 * GIB, 2, free))
        preflight.training_fits([replace(spec, **changes)] * 3, tmp_path)

    fits(plain)
    fits(plain + start, fresh=True)
    with pytest.raises(BadInput, match="models to start from"):
        fits(plain + start - 1, fresh=True)
    full = replace(training, method="full")
    spread = sum(preflight.training_disk(TrainingNeed(shape, full, processes=2), 1, 3).values())
    with pytest.raises(BadInput, match="model to start from, in fp32"):
        fits(spread, settings=full, processes=2)
    fits(spread + 4 * parameters(shape), settings=full, processes=2)


def test_eight_bit_moments_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "installed", lambda package: package != "bitsandbytes")
    preflight.check_engine(Sampling(), "none", "adamw")
    with pytest.raises(BadInput, match="bitsandbytes: not installed"):
        preflight.check_engine(Sampling(), "none", "adamw8bit")


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
