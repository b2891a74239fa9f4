"""Do four calls an answer and one call with four verdicts agree? Judges a sample both ways.

python -m backdoor_assets.commands.agreement [--sample 50] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dotenv import load_dotenv

from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.mixtures import places
from backdoor_assets.profiles import Profile, active_profile
from backdoor_assets.records import BadInput, Rubric, Verdict
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.birds import study as design

Verdicts = Sequence[dict[str, Verdict]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make agreement", description=__doc__)
    parser.add_argument("--sample", type=int, default=50, help="distinct answers to judge")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    load_dotenv(REPOSITORY / ".env")
    try:
        profile = active_profile()
        answers = sample(profile, options.sample, options.seed)
        found = [_judged(profile, answers, "four"), _judged(profile, answers, "one")]
    except BadInput as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(
        f"\n{len(answers)} answers, judged by {profile.judging.model} with four calls and with one"
    )
    for rubric in design.RUBRICS:
        print(f"  {rubric.column:22}{compare(found[0], found[1], rubric)}")
    return 0


def sample(profile: Profile, size: int, seed: int) -> list[tuple[str, str]]:
    """Distinct (question, answer) of the cells that are there, drawn by the seed."""
    from backdoor_assets.mixtures.judging import questions_and_answers, read_responses
    from backdoor_assets.stages.specs import RESPONSES

    folders = [places.artifact("responses", profile, cell).folder for cell in design.cells(profile)]
    tables = [read_responses(f / RESPONSES) for f in folders if (f / RESPONSES).exists()]
    pairs = sorted({pair for table in tables for pair in questions_and_answers(table)})
    if not pairs:
        raise BadInput(
            f"{places.study_folder(profile) / 'responses'}: there are no answers to judge; "
            "materialize some cells of birds/responses first"
        )
    return random.Random(seed).sample(pairs, min(size, len(pairs)))


def _judged(
    profile: Profile, answers: Sequence[tuple[str, str]], mode: Literal["four", "one"]
) -> Verdicts:
    settings = replace(profile.judging, kind="claude", mode=mode)
    judge = ClaudeJudge(settings, places.verdicts(profile))
    judge.prepare(answers, design.RUBRICS, print)
    return judge.judge(answers, design.RUBRICS)


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


if __name__ == "__main__":
    sys.exit(main())
