"""The cheap judge of a profile that predicts the verdicts of its judge."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.judging.judges import check_judge, open_judge, other_judging
from backdoor_assets.records import BadInput
from backdoor_assets.settings import MiniatureBase
from backdoor_assets.stages.judging.specs import Prediction


def predicting(grid: Grid) -> Grid | None:
    """Return the grid with the cheap judge as its judge; None without one. Raises BadInput for one
    that is no judge, or the judge itself."""
    judging = grid.profile.judging
    if not judging.predicted_by or judging.kind == "none":
        return None
    # It must not have learned from verdicts: on the answers that it knows its errors are fewer.
    cheap = replace(other_judging(judging, judging.predicted_by), learn_from_verdicts=False)
    if (cheap.kind, cheap.model) == (judging.kind, judging.model):
        raise BadInput(
            f"{grid.profile.title}: judging.predicted_by={judging.predicted_by!r} is the "
            "judge itself, and a part of its verdicts cannot cost less than all; name a cheaper "
            "judge, such as embedding, or leave predicted_by empty"
        )
    without_gold = cheap.kind == "embedding" and grid.study.gold is None
    if without_gold or (cheap.kind == "exact" and not isinstance(grid.profile.base, MiniatureBase)):
        why = "it has no labelled answers (gold)" if without_gold else "its answers are real ones"
        raise BadInput(
            f"{grid.profile.title}: judging.predicted_by={judging.predicted_by!r} cannot "
            f"judge the study {grid.study.name!r}, because {why}; name claude:MODEL, or leave "
            "predicted_by empty"
        )
    return Grid(grid.study, replace(grid.profile, judging=cheap))


def prediction(grid: Grid) -> Prediction | None:
    """Return what predicts the verdicts of a grid; None if the judge is asked about all answers."""
    cheap = predicting(grid)
    if cheap is None:
        return None
    return Prediction(partial(open_judge, cheap), grid.profile.judging.half_width)


def check_judges(grid: Grid) -> None:
    """Raise BadInput when a judge of the profile could not start."""
    check_judge(grid.profile.judging)
    if cheap := predicting(grid):
        check_judge(cheap.profile.judging)
