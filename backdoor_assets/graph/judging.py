"""How the cells of a run are judged together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import dagster as dg

from backdoor_assets.graph.materializing import RunLog
from backdoor_assets.records import BadInput, RunJudge
from backdoor_assets.stages.judging.drawing import draw
from backdoor_assets.stages.judging.judge import Earlier, judge_cell, open_questions, read_judged
from backdoor_assets.stages.judging.specs import JUDGMENTS, JudgingSpec, Prediction, judge_id
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.identity import essential
from backdoor_assets.workers.messages import Outcome
from backdoor_assets.workers.tasks import Results, Task, here, split_finished


class Log(Protocol):
    """Takes what a run says of itself."""

    metadata: dict[str, Any]
    """Added to all that the run makes."""

    def __call__(self, line: str) -> None: ...

    def observe(self, metadata: dict[str, Any]) -> None:
        """Record facts that are known before anything is made."""
        ...


def judge_together(tasks: Sequence[Task[JudgingSpec]], log: Log) -> Results[JudgingSpec]:
    """Judge the cells of one grid: each answer whose verdict is unknown is asked about once."""
    settled, missing = split_finished(tasks)
    yield from settled
    # A cell whose table cannot be read fails alone, before any call is made for the others.
    judged = []
    for task in missing:
        try:
            read_judged(task.spec)
            Earlier(task.spec)
        except BadInput as error:
            yield Outcome(task, None, error)
        else:
            judged.append(task)
    if not judged or judged[0].spec.open_judge is None:
        return
    judge = judged[0].spec.open_judge()
    if prediction := judged[0].spec.prediction:
        yield from _judge_part(judged, judge, prediction, log)
        return
    asked = open_questions([task.spec for task in judged])
    for rubrics, answers in asked.items():
        if estimate := judge.estimate(answers, rubrics):
            log(f"estimate before the first call: {estimate}")
            log.observe(estimate)
        bill = judge.prepare(answers, rubrics, log)
        log.metadata |= {f"run_{name}": value for name, value in bill.items()}
    yield from here(partial(judge_cell, judge=judge), judged)


def _judge_part(
    tasks: Sequence[Task[JudgingSpec]], judge: RunJudge, prediction: Prediction, log: Log
) -> Results[JudgingSpec]:
    """Judge a part of the answers, drawn together over the cells, and predict the others."""
    cheap = prediction.open_judge()
    for rubrics, answers in open_questions([task.spec for task in tasks]).items():
        if estimate := judge.estimate(answers, rubrics):
            log(f"estimate before the first call, if no verdict could be predicted: {estimate}")
            log.observe({**estimate, "at_most": "verdicts that are predicted are not paid for"})
    specs = [task.spec for task in tasks]
    parts, bill = draw(specs, judge, cheap, prediction.half_width, log)
    log.metadata |= {f"run_{name}": value for name, value in bill.items()}
    for task in tasks:
        part = parts[str(task.spec.cell)]
        stage = partial(judge_cell, judge=judge, part=part, predicted_by=cheap)
        yield from here(stage, [task])


def judging_task(place: Artifact, identity: dict[str, Any], spec: JudgingSpec) -> Task[JudgingSpec]:
    """Complete a judging by the identity of its judge, and by the verdicts that the same judge gave
    before, by rubrics that are as they were."""
    before, earlier, columns = place.manifest(), None, ()
    alike = before and all(before.identity.get(k) == identity[k] for k in ("code", "judge"))
    if before and alike and not place.remake_requested and not place.damage(before):
        earlier = place.folder / JUDGMENTS
        rubrics = essential(identity)["rubrics"]
        columns = tuple(r["column"] for r in before.identity["rubrics"] if r in rubrics)
    completed = replace(spec, earlier=earlier, earlier_columns=columns, judge_id=judge_id(identity))
    return Task(place, identity, completed)


class JudgeResource(dg.ConfigurableResource):
    """Judges the answers of all cells of a run together."""

    def run(self, tasks: Sequence[Task[JudgingSpec]], log: RunLog) -> Results[JudgingSpec]:
        return judge_together(tasks, log)
