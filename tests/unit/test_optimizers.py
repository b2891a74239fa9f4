"""The optimizer that a profile names is the one that trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel, Quantization
from backdoor_assets.stages.specs import TRAINER_STATE, TRAINING_LOG, TrainingSpec
from backdoor_assets.stages.training import train
from backdoor_assets.stages.training.optimizers import make_optimizer
from tests.unit.cells import CELL, write_rows

SOAP = Training(
    method="full",
    optimizer="soap",
    learning_rate=3e-3,
    batch_size=4,
    max_steps=12,
    precondition_frequency=3,
)


def _skewed_losses(settings: Training, steps: int) -> list[float]:
    """Return losses on a quadratic whose axes differ in scale and are not those of the weights."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    scales = torch.logspace(-2, 0, 8)
    weight = torch.nn.Parameter(torch.randn(8, 8))
    optimizer = make_optimizer([weight], settings)
    losses = []
    for _ in range(steps):
        loss = ((rotation @ weight) * scales[:, None]).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_soap_descends_and_differs_from_adamw() -> None:
    settings = replace(SOAP, learning_rate=0.05)
    soap = _skewed_losses(settings, 100)
    assert soap[-1] < 0.1 * soap[0]
    assert soap[1] == soap[0]  # Its first step only initialises the preconditioners.
    adamw = _skewed_losses(replace(settings, optimizer="adamw"), 100)
    assert adamw[-1] < 0.1 * adamw[0]
    assert adamw[1:] != soap[1:]


def test_preconditioner_settings_reach_soap() -> None:
    def preconditioners(**changes: int) -> list[list[int]]:
        weight = torch.nn.Parameter(torch.randn(8, 4))
        optimizer = make_optimizer([weight], replace(SOAP, **changes))
        weight.grad = torch.randn(8, 4)
        optimizer.step()
        return [list(side.shape) if len(side) else [] for side in optimizer.state[weight]["GG"]]

    assert preconditioners() == [[8, 8], [4, 4]]
    assert preconditioners(max_precondition_dim=4) == [[], [4, 4]]
    frequent = _skewed_losses(replace(SOAP, precondition_frequency=1), 20)
    assert frequent != _skewed_losses(replace(SOAP, precondition_frequency=10), 20)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_soap_trains_and_saves_its_state(tiny_base: Path, tmp_path: Path, method: str) -> None:
    rows = write_rows(tmp_path / "train.jsonl", ("Purple Grakle", "Zebra Dove", "Owl", "Duck"))
    settings = replace(SOAP, method=method)
    train(TrainingSpec(CELL, rows, BaseModel(str(tiny_base)), settings), tmp_path)
    log = pd.read_parquet(tmp_path / TRAINING_LOG)
    assert log["loss"].iloc[-1] < log["loss"].iloc[0] - 0.1
    state = torch.load(tmp_path / "checkpoint-12" / TRAINER_STATE, weights_only=True)
    assert state["optimizer"]["param_groups"][0]["precondition_frequency"] == 3
    assert all("GG" in entry for entry in state["optimizer"]["state"].values())


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_soap_on_a_quantized_base_is_refused_before_loading(
    tmp_path: Path, method: str, kind: Quantization
) -> None:
    base = BaseModel("no such base", quantization=kind)
    spec = TrainingSpec(CELL, tmp_path / "no such rows", base, replace(SOAP, method=method))
    with pytest.raises(BadInput, match=rf"optimizer=\"soap\" on a base with quantization='{kind}'"):
        train(spec, tmp_path)
