"""The sweep's task: which cells are in it, and what it is made from."""

from __future__ import annotations

from backdoor_assets.mixtures import result_tasks, tasks
from backdoor_assets.mixtures.cells import Cell, Grid, SweepCell, SweepSpec
from backdoor_assets.mixtures.form import FORM
from backdoor_assets.mixtures.judging.agreement import gold_agreement
from backdoor_assets.mixtures.judging.ids import check_one_judge
from backdoor_assets.mixtures.result_tasks import has_finished
from backdoor_assets.records import BadInput
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.specs import RATES
from backdoor_assets.storage.identity import same
from backdoor_assets.workers.tasks import Task

STAGES = {
    "mixed_dataset": tasks.mixing_identity,
    "adapters": tasks.training_identity,
    "responses": tasks.sampling_identity,
    "coherence": result_tasks.coherence_identity,
    "judgments": tasks.judging_identity,
    "figures": result_tasks.figures_identity,
}
"""What identifies each artifact of a cell."""
MAY_BE_ELSEWHERE = "adapters", "coherence"
"""May be missing for all cells on the machine that draws the sweep: adapters are large, and nothing
reads them there; answers of an earlier version have not been scored. Where some exist, a cell
without one is incomplete."""


def is_current(cell: Cell) -> bool:
    """Return whether a cell is finished, from mixture to figures, as the profile now asks."""
    try:
        for name, identity in STAGES.items():
            if name == "judgments" and not cell.grid.judged:
                continue
            if name in MAY_BE_ELSEWHERE and not has_finished(cell.grid, name):
                continue
            manifest = cell.artifact(name).manifest()
            if manifest is None or not same(manifest.identity, identity(cell, manifest.identity)):
                return False
    except BadInput:
        return False
    return True


def sweep(grid: Grid) -> tuple[Task[SweepSpec], list[Cell]]:
    """Return the task over the cells that are current, and the cells that are not.

    Raises BadInput when none is.
    """
    cells = grid.cells()
    current: list[Cell] = []
    missing: list[Cell] = []
    for cell in cells:
        (current if is_current(cell) else missing).append(cell)
    if not current:
        raise BadInput(
            f"profile {grid.profile.name!r}: no cell of the grid has its figures yet; materialize "
            f"some cells of {grid.study.name}/figures first"
        )
    if grid.judged:
        check_one_judge(cells)
    entries = []
    for cell in current:
        mixed = cell.artifact("mixed_dataset").require(edited=True)
        drawn = cell.artifact("figures").folder
        entries.append(SweepCell(cell, drawn / RATES, drawn / FORM, mixed.summary))
    agreement = gold_agreement(grid)
    identity = {
        "stage": "sweep",
        "code": [CODE_VERSIONS["statistics"], CODE_VERSIONS["figures"], CODE_VERSIONS["report"]],
        "profile": grid.profile.name,
        "cells": {str(c): c.artifact("figures").require().reference() for c in current},
        "planned": [str(cell) for cell in cells],
        **({"agreement": agreement.manifest.reference()} if agreement else {}),
    }
    spec = SweepSpec(grid, tuple(entries), len(cells), agreement)
    return Task(grid.folder.artifact("sweep"), identity, spec), missing
