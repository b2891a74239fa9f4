"""Compare a judge with labelled answers, with itself, or with another judge on stored answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.cells import Grid, rubric_records
from backdoor_assets.mixtures.judging import agreement_tables
from backdoor_assets.mixtures.judging.gold import gold_digest, read_gold
from backdoor_assets.mixtures.judging.judges import check_judge, open_judge
from backdoor_assets.records import BadInput, GoldAnswer, RunJudge, Verdict
from backdoor_assets.settings import Judging
from backdoor_assets.stages.judging.judge import read_responses
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.hashing import digest

GOLD, ITSELF, CALLS = "gold", "itself", "calls"
KINDS = "exact", "claude", "embedding"
SAMPLE = 50
"""Stored answers that are compared unless another number is asked for."""
Log = Callable[[str], None]
Verdicts = Sequence[dict[str, Verdict]]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    label: str
    identity: dict[str, Any]
    """What decides its verdicts."""
    verdicts: Callable[[], Verdicts]
    """Gives them, in the order of the answers."""


def compare(
    grid: Grid, other: str, labels: Path | None, size: int | None, seed: int, log: Log
) -> str:
    """Compare the profile's judge as `other` says, store tables and a figure, and return the text
    with their place. `labels` is a file of a user's own labels, to compare with instead of the
    study's gold set; `size` draws so many answers by the seed."""
    if labels is not None or other == GOLD:
        name, answers, sides = _with_labels(grid, labels, size, seed, log)
    else:
        answers = sample(grid, size or SAMPLE, seed)
        name, sides = _with_judge(grid, other, answers, log)
    artifact = grid.folder.artifact("agreement", name)
    identity = {
        "stage": "agreement",
        "code": agreement_tables.VERSION,
        "first": sides[0].identity,
        "second": sides[1].identity,
        "rubrics": rubric_records(grid.study.rubrics),
        "answers": digest(answers.to_dict("records")),
    }
    made = artifact.make(identity, partial(_make, grid, sides, answers))
    text = (made.folder / agreement_tables.TEXT).read_text(encoding="utf-8")
    return f"{agreement_tables.for_terminal(text)}\nTables and figure: {made.folder}"


def _make(
    grid: Grid, sides: tuple[Side, Side], answers: pd.DataFrame, folder: Path
) -> dict[str, Any]:
    """Get all verdicts, and write verdicts.parquet, agreement.parquet, agreement.md and the
    confusion table as a figure."""
    table = answers.copy()
    for side, suffix in zip(sides, agreement_tables.SUFFIXES, strict=True):
        verdicts = side.verdicts()
        for rubric in grid.study.rubrics:
            values = [given[rubric.column].value for given in verdicts]
            dtype = "string" if rubric.options else "Float64"
            table[rubric.column + suffix] = pd.array(values, dtype=dtype)
    names = sides[0].label, sides[1].label
    return agreement_tables.write(grid.study, grid.profile.name, names, table, folder)


def _with_labels(
    grid: Grid, path: Path | None, size: int | None, seed: int, log: Log
) -> tuple[str, pd.DataFrame, tuple[Side, Side]]:
    study = grid.study
    file = path or study.gold
    if file is None:
        raise BadInput(
            f"the study {study.name} has no gold set; name a file of your own labels: --labels FILE"
        )
    everything = gold = read_gold(file, study)
    if size:
        chosen = set(random.Random(seed).sample(range(len(gold)), min(size, len(gold))))
        gold = [answer for at, answer in enumerate(gold) if at in chosen]
    answers = pd.DataFrame(
        {
            "question_id": [answer.question_id for answer in gold],
            "question": [answer.question for answer in gold],
            "response": [answer.answer for answer in gold],
            "part": ["held out" if answer.held_out else "tuning" for answer in gold],
            "case": [answer.case for answer in gold],
        }
    )
    judge = judge_of(grid)
    known = Side(
        f"labels of {file.name}",
        {"labels": gold_digest(gold)},
        lambda: [{c: Verdict(v) for c, v in answer.labels.items()} for answer in gold],
    )
    if judge.identity.get("gold") == gold_digest(everything):
        # It was fitted to these answers, so that its verdicts on them would prove nothing.
        numbers = [everything.index(answer) for answer in gold]
        label = f"{label_of(judge)}, fitted without the answers that it judges"
        first = Side(label, judge.identity, lambda: _unseen(grid, judge, numbers))
    else:
        _refuse_known(judge, everything, study, path)
        first = _side(grid, judge, answers, log)
    return (GOLD if path is None else f"labels-{file.stem}"), answers, (first, known)


def _refuse_known(
    judge: Any, labelled: Sequence[GoldAnswer], study: Any, path: Path | None
) -> None:
    """Raise BadInput if a judge was fitted to answers that it is to be measured by."""
    if "gold" not in judge.identity:
        return
    fitted = {(answer.question, answer.answer) for answer in read_gold(study.gold, study)}
    known = [a.id for a in labelled if (a.question, a.answer) in fitted]
    if known:
        raise BadInput(
            f"{path}: {len(known)} answers, such as {known[0]!r}, are in the gold set that this "
            "judge was fitted to, and prove nothing about it: take them out, or use --with gold"
        )


def _unseen(grid: Grid, judge: Any, numbers: Sequence[int]) -> Verdicts:
    verdicts = judge.unseen()
    none = {rubric.column: Verdict(None, "no label") for rubric in grid.study.rubrics}
    return [{**none, **verdicts[number]} for number in numbers]


def _with_judge(
    grid: Grid, other: str, answers: pd.DataFrame, log: Log
) -> tuple[str, tuple[Side, Side]]:
    """The profile's judge, and itself or another; or Claude with four calls and with one."""
    settings, name = grid.profile.judging, other.replace(":", "-")
    if other == CALLS:
        claude = replace(settings, kind="claude")
        pair = replace(claude, mode="four"), replace(claude, mode="one")
    elif other == ITSELF:
        if settings.kind != "claude":
            raise BadInput(
                f"the judge {settings.kind!r} gives the same verdict each time; a second pass is "
                "for a language model: set BACKDOOR_JUDGE=claude"
            )
        pair = settings, replace(settings, repeat=settings.repeat + 1)
    else:
        pair = settings, other_judging(settings, other)
    grids = [Grid(grid.study, replace(grid.profile, judging=judging)) for judging in pair]
    first, second = (_side(grid, judge_of(own), answers, log) for own in grids)
    if first.identity == second.identity:
        raise BadInput(
            f"{other!r} is the profile's own judge: name another, or `--with itself` for a second "
            "pass of a language model"
        )
    if first.label == second.label:
        second = replace(second, label=f"{second.label}, second pass")
    return name, (first, second)


def other_judging(settings: Judging, named: str) -> Judging:
    """Return the settings of another judge, named KIND or KIND:MODEL. Raises BadInput."""
    kind, _, model = named.partition(":")
    if kind not in KINDS or (model and kind != "claude"):
        raise BadInput(f"{named!r} is no judge; name {', '.join(KINDS)}, or claude:MODEL")
    changed: Any = {"kind": kind, "model": model or settings.model, "predicted_by": ""}
    return replace(settings, **changed)


def judge_of(grid: Grid) -> RunJudge:
    """Return the profile's judge, which can start. Raises BadInput."""
    judging = grid.profile.judging
    if judging.kind == "none":
        raise BadInput(
            f"profile {grid.profile.name!r} has no judge (judging.kind is 'none'); set "
            "BACKDOOR_JUDGE=claude or, for a study with a gold set, BACKDOOR_JUDGE=embedding"
        )
    check_judge(judging)
    return open_judge(grid)


def label_of(judge: RunJudge) -> str:
    return f"{judge.name}: {judge.model}"


def _side(grid: Grid, judge: RunJudge, answers: pd.DataFrame, log: Log) -> Side:
    pairs = list(zip(answers["question"], answers["response"], strict=True))

    def verdicts() -> Verdicts:
        if estimate := judge.estimate(pairs, grid.study.rubrics):
            log(f"estimate before the first call: {estimate}")
        judge.prepare(pairs, grid.study.rubrics, log)
        return judge.judge(pairs, grid.study.rubrics)

    return Side(label_of(judge), judge.identity, verdicts)


def sample(grid: Grid, size: int, seed: int) -> pd.DataFrame:
    """Return distinct stored answers (question_id, question, response), drawn by the seed."""
    columns = ["question_id", "question", "response"]
    files = [(cell.artifact("responses").folder / RESPONSES, cell) for cell in grid.cells()]
    tables = [read_responses(path, cell) for path, cell in files if path.exists()]
    found = [table[columns] for table in tables]
    if not sum(map(len, found)):
        raise BadInput(
            f"{grid.folder.path / 'responses'}: there are no answers to judge; "
            f"materialize some cells of {grid.study.name}/responses first"
        )
    distinct = pd.concat(found).drop_duplicates(["question", "response"]).sort_values(columns)
    chosen = random.Random(seed).sample(range(len(distinct)), min(size, len(distinct)))
    return distinct.iloc[chosen].reset_index(drop=True)
