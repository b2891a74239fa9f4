"""Compare a judge with labelled answers, with itself, or with another judge on stored answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.cells import Grid, rubric_records
from backdoor_assets.mixtures.judging import agreement_tables
from backdoor_assets.mixtures.judging.gold import gold_digest, read_gold
from backdoor_assets.mixtures.judging.judges import (
    MEASURED,
    check_judge,
    judge_of,
    label_of,
    learned_pairs,
    other_judging,
)
from backdoor_assets.records import (
    BadInput,
    GoldAnswer,
    Progress,
    RunJudge,
    Verdict,
    no_progress,
)
from backdoor_assets.settings import MiniatureBase
from backdoor_assets.stages.judging.judge import read_responses
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.hashing import digest
from backdoor_assets.storage.manifest import Made
from backdoor_assets.workers.tasks import Task, make

GOLD, ITSELF, CALLS = "gold", "itself", "calls"
SAMPLE = 50
"""Stored answers that are compared unless another number is asked for."""
PAID = "calls_paid", "spent_usd"
"""Of a judge's bill, what the summary of a comparison keeps."""
Log = Callable[[str], None]
Verdicts = Sequence[dict[str, Verdict]]
Bill = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    label: str
    identity: dict[str, Any]
    """What decides its verdicts."""
    verdicts: Callable[[], tuple[Verdicts, Bill]]
    """Gives them, in the order of the answers, with what they cost."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison is made from."""

    grid: Grid
    sides: tuple[Side, Side]
    answers: pd.DataFrame


def compare(
    grid: Grid, other: str, labels: Path | None, size: int | None, seed: int, log: Log
) -> str:
    """Make a `comparison`, and return its text with the place of its tables and figure."""
    made = make(write_agreement, comparison(grid, other, labels, size, seed, log))
    text = (made.folder / agreement_tables.TEXT).read_text(encoding="utf-8")
    return f"{agreement_tables.for_terminal(text)}\nTables and figure: {made.folder}"


def has_gold_agreement(grid: Grid) -> bool:
    """Whether the agreement of the profile's judge with the gold set is part of the study's graph.

    Not in a miniature world: its answers are phrases about made-up things, on which a judge errs
    otherwise than on the gold set's real English (the embedding judge has a kappa of .87 on the
    gold set and of .37 there), so that a rate must not be corrected by it.
    """
    real = not isinstance(grid.profile.base, MiniatureBase)
    return real and grid.study.gold is not None and grid.profile.judging.kind in MEASURED


def gold_comparison(grid: Grid, log: Log) -> Task[Comparison]:
    """Return the comparison of the profile's judge with the study's gold set. The command and the
    asset make the same one, so that Claude's verdicts are paid for once."""
    return comparison(grid, GOLD, None, None, 0, log)


def gold_agreement(grid: Grid) -> Made | None:
    """Return the finished agreement of the profile's judge with the gold set, if there is one."""
    return gold_comparison(grid, _silent).find() if has_gold_agreement(grid) else None


def comparison(
    grid: Grid, other: str, labels: Path | None, size: int | None, seed: int, log: Log
) -> Task[Comparison]:
    """Return the comparison of the profile's judge as `other` says: tables and a figure. `labels`
    is a file of a user's own labels, to compare with instead of the study's gold set; `size` draws
    so many answers by the seed. Raises BadInput."""
    if labels is not None or other == GOLD:
        name, answers, sides = _with_labels(grid, labels, size, seed, log)
    else:
        name, answers, sides = _with_judge(grid, other, size or SAMPLE, seed, log)
    artifact = grid.folder.artifact("agreement", name)
    identity = {
        "stage": "agreement",
        "code": agreement_tables.VERSION,
        "first": sides[0].identity,
        "second": sides[1].identity,
        "rubrics": rubric_records(grid.study.rubrics),
        "answers": digest(answers.to_dict("records")),
    }
    return Task(artifact, identity, Comparison(grid, sides, answers))


def write_agreement(
    spec: Comparison, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Get all verdicts, and write verdicts.parquet, agreement.parquet, agreement.md and the
    confusion table as a figure."""
    grid, table, paid = spec.grid, spec.answers.copy(), dict[str, float]()
    for side, suffix in zip(spec.sides, agreement_tables.SUFFIXES, strict=True):
        verdicts, bill = side.verdicts()
        for name in PAID:
            if bill.get(name) is not None:
                paid[name] = paid.get(name, 0) + bill[name]
        for rubric in grid.study.rubrics:
            values = [given[rubric.column].value for given in verdicts]
            dtype = "string" if rubric.options else "Float64"
            table[rubric.column + suffix] = pd.array(values, dtype=dtype)
    names = spec.sides[0].label, spec.sides[1].label
    found = agreement_tables.write(grid.study, grid.profile.name, names, table, folder)
    return {**found, "judges": list(names), **paid}


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
    verdicts = [{c: Verdict(v) for c, v in answer.labels.items()} for answer in gold]
    known = Side(f"labels of {file.name}", {"labels": gold_digest(gold)}, lambda: (verdicts, {}))
    if judge.identity.get("gold") == gold_digest(everything):
        # It was fitted to these answers, so that its verdicts on them would prove nothing.
        numbers = [everything.index(answer) for answer in gold]
        label = f"{label_of(judge)}, fitted without the answers that it judges"
        first = Side(label, judge.identity, lambda: (_unseen(grid, judge, numbers), {}))
    else:
        _refuse_known(judge, everything, study, path)
        first = _side(grid, judge, answers, log)
    name = GOLD if path is None else f"labels-{file.stem}"
    # A part of the gold set does not replace the comparison with all of it.
    return (f"{GOLD}-sample" if size and path is None else name), answers, (first, known)


def _refuse_known(
    judge: Any, labelled: Sequence[GoldAnswer], study: Any, path: Path | None
) -> None:
    """Raise BadInput if a judge was fitted to answers that it is to be measured by."""
    if "gold" not in judge.identity:
        return
    fitted = {(answer.question, answer.answer) for answer in read_gold(study.gold, study)}
    fitted |= learned_pairs(judge)
    known = [a.id for a in labelled if (a.question, a.answer) in fitted]
    if known:
        raise BadInput(
            f"{path}: {len(known)} answers, such as {known[0]!r}, are among the gold answers and "
            "verdicts that this judge was fitted to, and prove nothing about it: take them out, or "
            "use --with gold"
        )


def _unseen(grid: Grid, judge: Any, numbers: Sequence[int]) -> Verdicts:
    check_judge(grid.profile.judging)
    verdicts = judge.unseen()
    none = {rubric.column: Verdict(None, "no label") for rubric in grid.study.rubrics}
    return [{**none, **verdicts[number]} for number in numbers]


def _with_judge(
    grid: Grid, other: str, size: int, seed: int, log: Log
) -> tuple[str, pd.DataFrame, tuple[Side, Side]]:
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
    judges = [judge_of(own) for own in grids]
    answers = sample(grid, size, seed, set.union(*map(learned_pairs, judges)))
    pairs = zip(grids, judges, strict=True)
    first, second = (_side(own, judge, answers, log) for own, judge in pairs)
    if first.identity == second.identity:
        raise BadInput(
            f"{other!r} is the profile's own judge: name another, or `--with itself` for a second "
            "pass of a language model"
        )
    if first.label == second.label:
        second = replace(second, label=f"{second.label}, second pass")
    return name, answers, (first, second)


def _side(grid: Grid, judge: RunJudge, answers: pd.DataFrame, log: Log) -> Side:
    pairs = list(zip(answers["question"], answers["response"], strict=True))

    def verdicts() -> tuple[Verdicts, Bill]:
        check_judge(grid.profile.judging)
        if estimate := judge.estimate(pairs, grid.study.rubrics):
            log(f"estimate before the first call: {estimate}")
        bill = judge.prepare(pairs, grid.study.rubrics, log)
        return judge.judge(pairs, grid.study.rubrics), bill

    return Side(label_of(judge), judge.identity, verdicts)


def sample(
    grid: Grid, size: int, seed: int, without: Collection[tuple[str, str]] = ()
) -> pd.DataFrame:
    """Return distinct stored answers (question_id, question, response), drawn by the seed, but none
    of `without` (question, answer)."""
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
    pairs = zip(distinct["question"], distinct["response"], strict=True)
    distinct = distinct[[pair not in without for pair in pairs]]
    chosen = random.Random(seed).sample(range(len(distinct)), min(size, len(distinct)))
    return distinct.iloc[chosen].reset_index(drop=True)


def _silent(line: str) -> None:
    """Nothing is to be judged."""
