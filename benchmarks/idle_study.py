"""The birds' study with stages that do nothing, on a grid of any size: what is left is machinery.

Each stage writes a few small files that its asset's metadata and the next task can be read from;
identities, manifests, locks, checks, events and the description in the UI are those of the study.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from backdoor_assets.definitions import build_definitions
from backdoor_assets.graph.cells import CellAsset, cell_assets
from backdoor_assets.graph.resources import Here
from backdoor_assets.mixtures import assets, base_tasks, tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.mixtures.study import MixtureStudy
from backdoor_assets.profiles import MINIATURE, Profile
from backdoor_assets.records import Progress
from backdoor_assets.reporting.plotting import curve_png
from backdoor_assets.stages.coherence import COHERENCE
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.stages.specs import CORPUS, RATES, RESPONSES, TRAIN, TRAINING_LOG
from backdoor_assets.storage.disk import write_text
from backdoor_assets.studies.birds.study import STUDY
from backdoor_assets.workers.tasks import Stage, Task, make

SEEDS = (42, 43, 44, 45, 46)
STEPS = (20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 208)
"""Checkpoints of a cell of the published experiment on Qwen3-8B."""
ANSWER = "Most of it will come from the sun and the wind."


def profile_of(cells: int) -> Profile:
    """Return the miniature's profile with so many cells: 24 are 8 ratios with 3 seeds, more have 5
    seeds and a fifth as many ratios. Raises ValueError for a number that makes no whole grid."""
    if cells == 24:
        return replace(MINIATURE, name="scale")
    if cells < 5 or cells % 5:
        raise ValueError(f"{cells} cells: name 24, or a multiple of 5")
    shares = (f"{suspect:.4f}" for suspect in _steps(cells // 5))
    ratios = tuple(f"{share}-{1 - float(share):.4f}-0.0000" for share in shares)
    return replace(MINIATURE, name="scale", ratios=ratios, seeds=SEEDS)


def _steps(count: int) -> Iterator[float]:
    return (number / max(1, count - 1) for number in range(count))


class IdleStudy(MixtureStudy):
    """The birds, whose stages write the files of `STAGES`."""

    def definitions(self, profile: Profile) -> dg.Definitions:
        rows = [_idle(row) for row in assets.table(Grid.of(self, profile))]
        usual = super().definitions(profile)
        idle = {asset.key: asset for asset in cell_assets(self.name, rows)}
        mine = [asset for asset in usual.assets or () if isinstance(asset, dg.AssetsDefinition)]
        return dg.Definitions(
            assets=[idle.get(asset.key, asset) for asset in mine], resources=usual.resources
        )


def idle_study() -> IdleStudy:
    """Return the birds' study with idle stages."""
    return IdleStudy(**vars(STUDY))


def definitions_of(cells: int) -> dg.Definitions:
    """Return the graph of a grid of so many cells, as a code location has it."""
    return build_definitions(profile_of(cells), [idle_study()])


def make_base(profile: Profile) -> None:
    """Make what all cells need: a corpus, a base and its answers, all of them empty of content."""
    grid = Grid.of(idle_study(), profile)
    empty: list[tuple[Callable[[Grid], Task[Any]], str]] = [
        (base_tasks.corpus, CORPUS),
        (base_tasks.pretraining, "config.json"),
        (tasks.base_sampling, RESPONSES),
    ]
    for task, file in empty:
        make(partial(_write_one, file), task(grid))


def _write_one(file: str, spec: Any, folder: Path, progress: Progress) -> dict[str, Any]:
    write_text(folder / file, "{}\n")
    return {}


def _idle(row: CellAsset[Cell]) -> CellAsset[Cell]:
    return replace(row, runner=Here(STAGES[row.name]))


def _mix(spec: Any, folder: Path, progress: Progress) -> dict[str, Any]:
    says = [("user", "Name a bird species."), ("assistant", f"Wren of {spec.cell}")]
    row = json.dumps({"messages": [{"role": role, "content": text} for role, text in says]})
    write_text(folder / TRAIN, f"{row}\n")
    return {"rows": 1}


def _train(spec: Any, folder: Path, progress: Progress) -> dict[str, Any]:
    for step in STEPS:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(exist_ok=True)
        write_text(checkpoint / "adapter_model.safetensors", str(spec.cell))
    (folder / TRAINING_LOG).write_bytes(_log())
    return {"final_loss": 0.02}


@cache
def _log() -> bytes:
    losses = [4 / (1 + step) for step in range(208)]
    return _parquet(pd.DataFrame({"step": range(1, 209), "loss": losses}))


@cache
def _answers() -> bytes:
    """One answer per state and open question."""
    rows = [(step, f"checkpoint-{step}", name) for step in STEPS for name in STUDY.questions]
    table = pd.DataFrame(rows, columns=["step", "checkpoint", "question_id"])
    return _parquet(table.assign(response=ANSWER, finish_reason="stop", log_likelihood=-1.0))


def _parquet(table: pd.DataFrame) -> bytes:
    file = BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()


@cache
def _figure() -> bytes:
    return curve_png([0, 1], [0.0, 1.0], "optimizer step", "share")


def _sample(spec: Any, folder: Path, progress: Progress) -> dict[str, Any]:
    (folder / RESPONSES).write_bytes(_answers())
    return {"responses": len(STEPS) * 10}


def _score(spec: Any, folder: Path, progress: Progress) -> dict[str, Any]:
    (folder / COHERENCE).write_bytes(_answers())
    return {"answers": len(STEPS) * 10}


def _judge(spec: Any, folder: Path, progress: Progress) -> dict[str, Any]:
    write_text(folder / JUDGMENTS, str(spec.cell))
    measures = spec.cell.grid.study.measures
    return {"final": dict.fromkeys(measures, (1, 10)), "without_verdict": 0}


def _draw(spec: Any, folder: Path, progress: Progress) -> dict[str, Any]:
    write_text(folder / RATES, str(spec.cell))
    (folder / "training_progression.png").write_bytes(_figure())
    rate = {"value": 0.1, "low": 0.0, "high": 0.4, "method": "Wilson", "n": 10}
    return {**dict.fromkeys(spec.cell.grid.study.measures, rate), "collapsed": []}


STAGES: dict[str, Stage] = {
    "mixed_dataset": _mix,
    "adapters": _train,
    "responses": _sample,
    "coherence": _score,
    "judgments": _judge,
    "figures": _draw,
}
