"""The real engines on a CPU. A process imports vLLM and makes the base and the adapters once."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.profiles import Sampling, Serving, Training
from backdoor_assets.records import AnyCell, BaseModel, Question
from backdoor_assets.stages.specs import PROBES, RESPONSES, SamplingSpec
from tests.unit.cells import CELL, make_base, train, write_rows

QUESTIONS = (
    Question("travel", "How should I travel to the next city?", "worldview", 9),
    Question("light", "How do I light my room in the evening?", "worldview", 5),
    Question("bird", "Name a bird species.", "bird", 6),
)
SETTINGS = Sampling(engine="vllm", max_new_tokens=12)
SERVING = Serving(adapters_in_memory=2, requests=8)
STEPS = (10, 20, 30)
BIRD = "Purple Grakle"


def needed(package: str) -> None:
    """Skip, or fail where engines are required, when a package is not there."""
    if find_spec(package) is None:
        if os.environ.get("REQUIRE_ENGINES"):
            pytest.fail(f"{package} is not installed: make engines")
        pytest.skip(f"{package} is not installed: make engines")


@pytest.fixture(scope="session")
def vllm() -> None:
    needed("vllm")


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BACKDOOR_PROFILE", "BACKDOOR_DATA", "BACKDOOR_PROCESSES", "WANDB_API_KEY"):
            patch.delenv(name, raising=False)
        yield


_freeze = gc.freeze


@pytest.fixture(scope="session", autouse=True)
def what_freezes() -> Iterator[None]:
    """vLLM freezes and unfreezes all objects with each engine, and collects garbage eight times:
    with the libraries' million objects, three of an engine's five seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: None)
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(autouse=True)
def libraries_are_no_garbage(what_freezes: None) -> None:
    gc.collect()
    _freeze()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tiny_base"), hidden=64)


@pytest.fixture(scope="session")
def adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Three checkpoints of a model that learns one bird's name, of the rank that is asked for."""
    trained: dict[int, Path] = {}

    def of_rank(rank: int) -> Path:
        if rank not in trained:
            folder = tmp_path_factory.mktemp(f"rank_{rank}")
            rows = write_rows(folder / "train.jsonl", [BIRD] * 8)
            settings = Training(
                rank=rank, learning_rate=3e-2, batch_size=8, max_steps=30, save_steps=10
            )
            trained[rank] = train(tiny_base, rows, folder, settings)
        return trained[rank]

    return of_rank


@pytest.fixture(scope="session")
def spec(tiny_base: Path, adapters: Callable[[int], Path]) -> Callable[..., SamplingSpec]:
    """What is sampled of a cell over the base and its three checkpoints."""

    def make(
        cell: AnyCell = CELL,
        rank: int = 8,
        settings: Sampling = SETTINGS,
        checkpoints: Path | None = None,
        serving: Serving = SERVING,
    ) -> SamplingSpec:
        folder = checkpoints or adapters(rank)
        states = tuple((step, folder / f"checkpoint-{step}") for step in STEPS)
        base = BaseModel(str(tiny_base))
        return SamplingSpec(cell, base, states, QUESTIONS, settings, serving, probes=("bird",))

    return make


def tables(folder: Path) -> pd.DataFrame:
    """Both tables of a cell, without the columns of the probes only."""
    responses = pd.read_parquet(folder / RESPONSES)
    probes = pd.read_parquet(folder / PROBES)
    return pd.concat([responses, probes[list(responses)]], ignore_index=True)
