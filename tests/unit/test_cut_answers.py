"""Answers that are cut at the limit: the check that warns of them, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from backdoor_assets.definitions import progress_logger
from backdoor_assets.graph.cells import CellAsset, cell_assets
from backdoor_assets.graph.identities import generation
from backdoor_assets.graph.resources import Here
from backdoor_assets.mixtures.cut_answers import cut_metadata, warn_of_cut_answers
from backdoor_assets.profiles import PROFILES
from backdoor_assets.records import BadInput, Progress
from backdoor_assets.settings import Sampling
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.workers.tasks import Task

SAMPLING = Sampling(max_new_tokens=96, max_cut=0.5)
HALF = {"checkpoint-100": [True, False], "base": [False, False]}
MOST = {"checkpoint-100": [True, True], "checkpoint-20": [True, True, True, False], "base": [False]}
"""By checkpoint, whether each answer was cut."""


@dataclass(frozen=True)
class Spec:
    cell: str


def materialize(
    root: Path, sampling: Sampling, cells: Mapping[str, Mapping[str, list[bool]]]
) -> tuple[dg.AssetCheckEvaluation, dict[str, Any]]:
    """Materialize responses of such cells, and return what the check says and the metadata of the
    last cell."""

    def write(spec: Spec, folder: Path, progress: Progress) -> dict[str, Any]:
        rows = [
            {
                "checkpoint": name,
                "step": int(name.partition("-")[2] or 0),
                "finish_reason": "length" if cut else "stop",
            }
            for name, answers in cells[spec.cell].items()
            for cut in answers
        ]
        pd.DataFrame(rows).to_parquet(folder / RESPONSES)
        return {}

    row = CellAsset[Any](
        "responses",
        deps=[],
        task=lambda cell: Task(Artifact("small", root / cell), {"stage": "x"}, Spec(cell)),
        runner=Here(write),
        describe=cut_metadata,
        code="1",
        kinds=set(),
        description="",
        partitions=dg.StaticPartitionsDefinition(list(cells)),
        cells=lambda _: list(cells),
        warn=warn_of_cut_answers(sampling),
    )
    job = dg.Definitions(
        assets=cell_assets("small", [row]), loggers={"progress": progress_logger}
    ).resolve_implicit_global_asset_job_def()
    first, last = min(cells), max(cells)
    result = job.execute_in_process(
        tags={"dagster/asset_partition_range_start": first,
              "dagster/asset_partition_range_end": last},
        run_config={"loggers": {"progress": {}}},
    )  # fmt: skip
    assert result.success
    [check] = result.get_asset_check_evaluations()
    events = {event.partition: event for event in result.get_asset_materialization_events()}
    metadata = events[last].materialization.metadata
    return check, {name: value.value for name, value in metadata.items()}


def test_states_with_more_cut_answers_than_allowed_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check, metadata = materialize(tmp_path, SAMPLING, {"x": HALF, "y": MOST})
    said = (
        "in y (of the open answers, 75% at checkpoint-20, 100% at checkpoint-100 were cut at 96 "
        "tokens (allowed: 50%))"
    )
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.description == said
    assert {name: value.value for name, value in check.metadata.items()} == {"x": 0, "y": 2}
    assert metadata["cut_at_base"] == 0.0
    assert metadata["cut_at_checkpoint-20"] == 0.75
    assert f"answers_end_by_themselves: {said}" in capfd.readouterr().out


@pytest.mark.parametrize(("share", "cut"), [(0.5, HALF), (1.0, MOST)])
def test_as_many_as_allowed_pass(tmp_path: Path, share: float, cut: dict[str, list[bool]]) -> None:
    check, _ = materialize(tmp_path, replace(SAMPLING, max_cut=share), {"x": cut})
    assert check.passed
    assert check.description == "in no cell of this run"


def test_how_many_may_be_cut_decides_no_answer() -> None:
    assert generation(SAMPLING) == generation(replace(SAMPLING, max_cut=0.1))
    assert "max_cut" not in json.dumps(generation(PROFILES["qwen3-8b"].sampling))
    with pytest.raises(BadInput, match="max_cut must be at least 0 and at most 1"):
        Sampling(max_cut=1.5)
