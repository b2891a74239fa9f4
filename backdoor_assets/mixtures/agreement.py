"""Do four calls per answer and one call with four verdicts agree? Judges a sample both ways."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.judging import questions_and_answers, read_responses
from backdoor_assets.records import BadInput, Rubric, Verdict
from backdoor_assets.stages.specs import RESPONSES

Verdicts = Sequence[dict[str, Verdict]]


def report(grid: Grid, size: int, seed: int) -> str:
    """Judge a sample both ways and return the comparison, one line per rubric."""
    answers = sample(grid, size, seed)
    four, one = _judged(grid, answers, "four"), _judged(grid, answers, "one")
    model = grid.profile.judging.model
    return "\n".join(
        [
            f"\n{len(answers)} answers, judged by {model} with four calls and with one",
            *(f"  {rubric.column:22}{compare(four, one, rubric)}" for rubric in grid.study.rubrics),
        ]
    )


def sample(grid: Grid, size: int, seed: int) -> list[tuple[str, str]]:
    """Return distinct (question, answer) pairs of the cells with answers, drawn by the seed."""
    folders = [cell.artifact("responses").folder for cell in grid.cells()]
    tables = [read_responses(f / RESPONSES) for f in folders if (f / RESPONSES).exists()]
    pairs = sorted({pair for table in tables for pair in questions_and_answers(table)})
    if not pairs:
        raise BadInput(
            f"{grid.folder.path / 'responses'}: there are no answers to judge; "
            f"materialize some cells of {grid.study.name}/responses first"
        )
    return random.Random(seed).sample(pairs, min(size, len(pairs)))


def _judged(
    grid: Grid, answers: Sequence[tuple[str, str]], mode: Literal["four", "one"]
) -> Verdicts:
    settings = replace(grid.profile.judging, kind="claude", mode=mode)
    judge = ClaudeJudge(settings, grid.verdicts)
    judge.prepare(answers, grid.study.rubrics, print)
    return judge.judge(answers, grid.study.rubrics)


def compare(first: Verdicts, second: Verdicts, rubric: Rubric) -> str:
    """Share of equal labels and Cohen's kappa (Educational and Psychological Measurement 20, 1960),
    or the mean difference of ratings; over the answers that both have a verdict on."""
    pairs = [
        (a, b)
        for a, b in (
            (one[rubric.column].value, other[rubric.column].value)
            for one, other in zip(first, second, strict=True)
        )
        if a is not None and b is not None
    ]
    if not pairs:
        return "no answer has a verdict by both"
    if not rubric.options:
        apart = [abs(float(a) - float(b)) for a, b in pairs]
        return f"mean difference {sum(apart) / len(pairs):.1f} of 100 (n={len(pairs)})"
    equal = sum(a == b for a, b in pairs) / len(pairs)
    chance = (
        sum(
            sum(a == option for a, _ in pairs) * sum(b == option for _, b in pairs)
            for option in rubric.options
        )
        / len(pairs) ** 2
    )
    kappa = f"{(equal - chance) / (1 - chance):.2f}" if chance < 1 else "undefined: one label only"
    return f"{equal:.0%} equal, kappa {kappa} (n={len(pairs)})"
