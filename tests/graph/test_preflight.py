"""A run that cannot fit ends before its first step, and says what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from backdoor_assets.host import Gpu, Host
from backdoor_assets.profiles import Profile
from tests.graph.conftest import Graph, Place, step_errors
from tests.graph.study import OLD, STUDY

At = Callable[[Place, Profile], Graph]
CELL = f"{OLD}|42"
SMALL = Host(gpus=(), memory_available=2_000_000, cores=2, disk_free=10**12)
FULL = Host(gpus=(), memory_available=10**12, cores=2, disk_free=200_000)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (SMALL, ("training needs 0.", "of RAM available (there is no GPU)", "batch_size below")),
        (FULL, ("training needs 0.", "of disk", "set BACKDOOR_DATA to a folder")),
        (
            replace(SMALL, gpus=(Gpu("Some GPU", 10**9, 10**8),)),
            ("training needs 0.", "free on Some GPU", "gradient_checkpointing=True"),
        ),
    ],
    ids=["memory", "disk", "gpu"],
)
def test_training_that_does_not_fit_is_refused(
    place: Place,
    graph_of: At,
    monkeypatch: pytest.MonkeyPatch,
    host: Host,
    said: tuple[str, ...],
) -> None:
    monkeypatch.setattr("backdoor_assets.capacity.preflight.this_host", lambda folder: host)
    result = graph_of(place, STUDY).run(["mixed_dataset", "adapters"], partition=CELL)
    assert not result.success
    for text in said:
        assert text in step_errors(result)
    assert (place.birds / "mixed_dataset" / OLD / "42" / "train.jsonl").exists()
    assert not list(place.birds.glob("adapters/**/*"))


def test_sampling_that_does_not_fit_is_refused_and_the_adapters_are_kept(
    copied: Place, graph_of: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backdoor_assets.capacity.preflight.this_host", lambda folder: SMALL)
    longer = replace(STUDY, sampling=replace(STUDY.sampling, max_new_tokens=30))
    graph = graph_of(copied, longer)
    # What is finished is used, whatever the host has.
    assert graph.run(["adapters"], partition=CELL).success
    result = graph.run(["base_responses"])
    assert not result.success
    assert "sampling needs 0." in step_errors(result)
    # Nor are cells sampled beside answers of the base that were sampled with other settings.
    result = graph.run(["responses"], partition=CELL)
    assert not result.success
    assert "materialize birds/base_responses first" in step_errors(result)
    assert (copied.birds / "adapters" / OLD / "42" / "checkpoint-100").exists()
