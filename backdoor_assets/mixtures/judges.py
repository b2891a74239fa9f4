"""Who judges the answers of a mixture study, and how the cells of a run are judged together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import dagster as dg

from backdoor_assets.graph.materializing import RunLog
from backdoor_assets.mixtures.cells import Grid, JudgingSpec
from backdoor_assets.records import BadInput, RunJudge
from backdoor_assets.settings import Judging
from backdoor_assets.workers.messages import Outcome
from backdoor_assets.workers.tasks import Results, Task, here, split_finished


def open_judge(grid: Grid) -> RunJudge:
    """Return the judge of a profile. Raises BadInput for one that the study does not have."""
    settings, world = grid.profile.judging, grid.study.world
    if settings.kind == "claude":
        from backdoor_assets.claude.judge import ClaudeJudge

        return ClaudeJudge(settings, grid.verdicts)
    if settings.kind == "exact" and world is not None:
        return world.judge()
    raise BadInput(
        f"profile {grid.profile.name!r}: judging.kind={settings.kind!r} cannot judge the study "
        f"{grid.study.name!r}; set it to 'claude'" + (" or 'exact'" if world else "")
    )


def check_judge(settings: Judging) -> None:
    """Raise BadInput when the judge could not start: no key, or a retired model."""
    if settings.kind == "claude":
        from backdoor_assets.claude.judge import check_key, check_model

        check_model(settings.model)
        check_key()


class JudgeResource(dg.ConfigurableResource):
    """Judges the answers of all cells of a run together: each answer whose verdict is unknown is
    asked about once."""

    def run(self, tasks: Sequence[Task[JudgingSpec]], log: RunLog) -> Results[JudgingSpec]:
        settled, missing = split_finished(tasks)
        yield from settled
        if not missing:
            return
        from backdoor_assets.mixtures.judging import (
            Earlier,
            judge_cell,
            open_questions,
            read_responses,
        )

        # A cell whose table cannot be read fails alone, before any call is made for the others.
        judged = []
        for task in missing:
            try:
                read_responses(task.spec.responses)
                Earlier(task.spec)
            except BadInput as error:
                yield Outcome(task, None, error)
            else:
                judged.append(task)
        if not judged:
            return
        judge = open_judge(judged[0].spec.cell.grid)
        asked = open_questions([task.spec for task in judged])
        for rubrics, answers in asked.items():
            if estimate := judge.estimate(answers, rubrics):
                log(f"estimate before the first call: {estimate}")
                log.observe(estimate)
            bill = judge.prepare(answers, rubrics, log)
            log.metadata |= {f"run_{name}": value for name, value in bill.items()}
        yield from here(partial(judge_cell, judge=judge), judged)
