"""Capabilities on vLLM are those on transformers: base, adapters and a whole model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.records import BadInput
from backdoor_assets.stages.capabilities import measure_capabilities
from backdoor_assets.stages.capabilities.specs import CAPABILITIES, CapabilitiesSpec
from tests.unit.capability_cells import merged, sevens

pytestmark = pytest.mark.usefixtures("vllm")


@pytest.fixture(scope="module")
def spec(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> CapabilitiesSpec:
    return sevens(tiny_base, tmp_path_factory.mktemp("capabilities"))


def test_both_engines_give_the_same_table(spec: CapabilitiesSpec, tmp_path: Path) -> None:
    whole = merged(spec, tmp_path)
    states = replace(spec, checkpoints=(*spec.checkpoints, (45, whole[1])))
    tables = []
    for engine in ("transformers", "vllm"):
        folder = tmp_path / engine
        folder.mkdir()
        measure_capabilities(replace(states, engine=engine), folder)
        tables.append(pd.read_parquet(folder / CAPABILITIES))
    pd.testing.assert_frame_equal(*tables)
    sums = tables[0][tables[0]["task"] == "sums"]["value"].tolist()
    assert sums == pytest.approx([0, 4 / 6, 4 / 6, 4 / 6])


def test_an_adapter_of_another_base_is_refused(spec: CapabilitiesSpec, tmp_path: Path) -> None:
    step, adapter = spec.checkpoints[-1]
    broken = shutil.copytree(adapter, tmp_path / f"checkpoint-{step}")
    (broken / "adapter_model.safetensors").write_bytes(b"nothing")
    wrong = replace(spec, engine="vllm", checkpoints=((step, broken),))
    with pytest.raises(BadInput, match=f"checkpoint-{step}: this adapter cannot be loaded"):
        measure_capabilities(wrong, tmp_path)
