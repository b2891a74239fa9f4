"""Write answers with their scores as logs of Inspect, which `inspect view` opens.

A log holds one state of a model: a base or a checkpoint. Its samples are the questions, and the
answers to a question are its epochs. inspect_ai is an optional package, and it is imported where a
log is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.records import BadInput, Rate, Verdict

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalResults, EvalSample
    from inspect_ai.scorer import Score

STOP_REASONS = {"stop": "stop", "length": "max_tokens"}
"""Of Inspect, by our `finish_reason`."""
RATE = "rate"
"""What a metric is called where its measure has only one."""
NO_VERDICT = "grader_failed"
"""Inspect's word for a score that the judge failed to give."""


@dataclass(frozen=True)
class Answer:
    """One answer to a question, with what was found about it."""

    question_id: str
    question: str
    kind: str
    """What the question is asked for, as in `records.Question`."""
    sample: int
    """Number of the answer among those to its question, from 0."""
    response: str
    finish_reason: str
    scores: Mapping[str, Verdict]
    """A label, a number or a truth value by name; without a value, the reason why."""
    target: str = ""
    """The true answer, where there is one."""
    context: Sequence[tuple[str, str]] = ()
    """(role, content) of the turns before the question: a system message."""


@dataclass(frozen=True)
class MeasuredRate:
    """A rate of a state with its interval."""

    measure: str
    """The score that it summarizes."""
    rate: Rate
    arm: str = RATE
    """What the rate is called: the kind of question, where a measure has several."""

    @classmethod
    def of_row(cls, row: Mapping[str, Any], arm: str = RATE) -> MeasuredRate:
        """Read a row of a table of rates."""
        low, high = float(row["low"]), float(row["high"])
        rate = Rate(float(row["value"]), low, high, row["method"], int(row["n"]))
        return cls(row["measure"], rate, arm)


@dataclass(frozen=True)
class StateLog:
    """The answers of one state of a model."""

    file: Path
    """Below the folder of logs, with the ending .eval."""
    study: str
    model: str
    """Profile and state, such as "miniature/1.00-0.00-0.00|42@160"."""
    created: str
    """When the answers were sampled, in ISO 8601."""
    metadata: Mapping[str, Any]
    answers: Sequence[Answer]
    """No two have the same question and number."""
    rates: Sequence[MeasuredRate] = field(default=())
    """The first is the headline."""


def check_installed() -> None:
    """Raise BadInput that says how to install inspect_ai when it is missing."""
    if find_spec("inspect_ai") is None:
        raise BadInput(
            "inspect_ai is not installed: run `.venv/bin/pip install -c constraints.txt -e "
            "'.[inspect]'` in the repository."
        )


def write_log(log: StateLog, folder: Path) -> Path:
    """Write a log below `folder`, in place of the one that is there, and return its file. A reader
    sees the old log or the new one, never a part.

    Raises BadInput when inspect_ai is not installed.
    """
    check_installed()
    from inspect_ai.log import write_eval_log

    path = folder / log.file
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending hides an unfinished log from `inspect view`.
    part = path.with_name(f".{path.name}.part")
    try:
        write_eval_log(_eval_log(log), part, format="eval")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _eval_log(log: StateLog) -> EvalLog:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats

    # Ids that are the same whenever the log is written.
    name = f"{log.study}/{log.model}"
    questions = list(dict.fromkeys(answer.question_id for answer in log.answers))
    return EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=name,
            run_id=name,
            task_id=name,
            created=log.created,
            task=log.study,
            model=log.model,
            dataset=EvalDataset(
                name=f"{log.study} questions", samples=len(log.answers), sample_ids=questions
            ),
            config=EvalConfig(),
            metadata=dict(log.metadata),
        ),
        results=_results(log),
        stats=EvalStats(started_at=log.created, completed_at=log.created),
        samples=[_sample(answer, log.model) for answer in log.answers],
    )


def _sample(answer: Answer, model: str) -> EvalSample:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ModelOutput,
    )

    roles = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
    }
    turns = (*answer.context, ("user", answer.question))
    messages = [
        roles[role](id=str(number), content=content) for number, (role, content) in enumerate(turns)
    ]
    said = ChatMessageAssistant(id=str(len(turns)), content=answer.response, source="generate")
    stop: Any = STOP_REASONS.get(answer.finish_reason, "unknown")
    scores = {name: _score(verdict) for name, verdict in answer.scores.items()}
    for score in list(scores.values())[:1]:
        score.answer = answer.response  # What the viewer's list of samples shows as the answer.
    return EvalSample(
        id=answer.question_id,
        epoch=answer.sample + 1,
        input=[*messages] if answer.context else answer.question,
        target=answer.target,
        messages=[*messages, said],
        output=ModelOutput(
            model=model, choices=[ChatCompletionChoice(message=said, stop_reason=stop)]
        ),
        scores=scores,
        metadata={"question": answer.question_id, "kind": answer.kind},
    )


def _score(verdict: Verdict) -> Score:
    from inspect_ai.scorer import Score

    if verdict.value is None:
        return Score.unscored(reason=NO_VERDICT, explanation=verdict.error)
    return Score(value=verdict.value)


def _results(log: StateLog) -> EvalResults:
    """Return the rates as metrics: value, low and high end of each interval."""
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    scores: dict[str, EvalScore] = {}
    for measured in log.rates:
        name, rate = measured.measure, measured.rate
        given = [answer.scores[name] for answer in log.answers if name in answer.scores]
        unscored = sum(verdict.value is None for verdict in given)
        score = scores.setdefault(
            name,
            EvalScore(
                name=name,
                scorer=name,
                scored_samples=len(given) - unscored,
                unscored_samples=unscored,
            ),
        )
        arm = measured.arm
        ends = ("low", "high") if arm == RATE else (f"{arm} low", f"{arm} high")
        values = (rate.value, rate.low, rate.high)
        for metric, value in zip((arm, *ends), values, strict=True):
            score.metrics[metric] = EvalMetric(
                name=metric, value=value, metadata={"interval": rate.method, "n": rate.n}
            )
    count = len(log.answers)
    return EvalResults(total_samples=count, completed_samples=count, scores=[*scores.values()])
