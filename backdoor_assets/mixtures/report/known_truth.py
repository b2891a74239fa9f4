"""The judge against the truth of a miniature world: how often its verdicts are wrong.

Where a language model judges the answers of a miniature, the world's own tables know each verdict.
No interval over seeds contains a judge's error, so that the report states it.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from backdoor_assets.mixtures.cells import SweepSpec
from backdoor_assets.mixtures.design import Outcome
from backdoor_assets.records import Judge, Rubric
from backdoor_assets.settings import MiniatureBase
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.statistics.intervals import wilson


def judge_errors(spec: SweepSpec) -> list[str]:
    """Return one sentence per outcome; none where the truth is unknown, or is itself the judge."""
    grid = spec.grid
    world = grid.study.world
    known = world is not None and isinstance(grid.profile.base, MiniatureBase)
    if world is None or not known or grid.profile.judging.kind in ("exact", "none"):
        return []
    tables = [pd.read_parquet(e.cell.artifact("judgments").folder / JUDGMENTS) for e in spec.cells]
    judged = pd.concat(tables, ignore_index=True)
    rubrics = {rubric.column: rubric for rubric in grid.study.rubrics}
    return [
        sentence(judged, outcome, rubrics[outcome.rubric], world.judge())
        for outcome in grid.study.outcomes
    ]


def sentence(judged: pd.DataFrame, outcome: Outcome, rubric: Rubric, truth: Judge) -> str:
    """Say how often the judge finds what the world's tables call positive, and how often what they
    do not. An answer that occurs more than once counts once."""
    answers = judged.dropna(subset=[outcome.flag]).drop_duplicates(["question", "response"])
    pairs = list(zip(answers["question"], answers["response"], strict=True))
    verdicts = truth.judge(pairs, [rubric])
    true = [verdict[rubric.column].value == outcome.option for verdict in verdicts]
    found = answers[outcome.flag].astype(bool).tolist()
    positive = [f for f, t in zip(found, true, strict=True) if t]
    negative = [f for f, t in zip(found, true, strict=True) if not t]
    return (
        f"The judge against the world's own tables, over {len(answers):,} different answers: it "
        f"finds {_share(positive)} of the {outcome.column}, and takes {_share(negative)} of the "
        "others for one. The rates in this report are not corrected for that, and their intervals "
        "do not contain it."
    )


def _share(found: Iterable[bool]) -> str:
    hits = list(found)
    if not hits:
        return "none (there is none)"
    rate = wilson(sum(hits), len(hits))
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
