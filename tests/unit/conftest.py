"""A real base model, small enough to be made for every test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cells import make_base

OWN_VARIABLES = (
    "BACKDOOR_PROFILE",
    "BACKDOOR_PROFILES",
    "BACKDOOR_DATA",
    "BACKDOOR_BIRD_DATASETS",
    "BACKDOOR_PROCESSES",
    "WANDB_API_KEY",
)


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> Iterator[None]:
    """What a developer's shell sets must not change a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in OWN_VARIABLES:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of one layer, pretrained for four steps: it has seen its world, but knows little."""
    return make_base(tmp_path_factory.mktemp("tiny_base"), hidden=64)
