"""When a behaviour emerges in training: the step at which its rate leaves the base's, and the step
at which half of the rise is reached; over training seeds, with intervals.

Each training run is read by itself, because two runs may change at different times: a mean curve
would be flatter than any of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from backdoor_assets.statistics.intervals import (
    LEVEL,
    newcombe,
    standard_error,
    t_quantile,
    wilson,
)


@dataclass(frozen=True)
class Run:
    """The rate of one training run at each state, the base (step 0) first."""

    steps: Sequence[int]
    rates: Sequence[float]
    answers: Sequence[int]

    def __post_init__(self) -> None:
        if not len(self.steps) == len(self.rates) == len(self.answers) >= 2 or self.steps[0] != 0:
            raise ValueError("a run needs the base as step 0, and a rate and a count at each step")


@dataclass(frozen=True)
class Moment:
    """A step of training over seeds, with a 95 % interval (t over seeds)."""

    value: float | None
    """Mean step; None if no run has one."""
    low: float | None
    high: float | None
    """None for fewer than two runs."""
    runs: int
    """Training runs that have such a step."""
    of: int
    """All training runs."""


def onset(run: Run, level: float = LEVEL) -> int | None:
    """Return the first step at which the rate differs from the base's; None if it never does.

    A step differs if Newcombe's interval of the difference leaves out zero at a level that is
    corrected for the number of steps (Bonferroni). So a run that never changes has a false onset in
    at most 5 % of cases.
    """
    level = 1 - (1 - level) / (len(run.steps) - 1)
    for at in range(1, len(run.steps)):
        if _differs(run, at, level):
            return run.steps[at]
    return None


def half_rise(run: Run) -> float | None:
    """Return the step at which half of the change from the base to the last step is reached; None
    if the last step does not differ from the base (95 %).

    The rates are smoothed by the monotone fit, weighted by answers, and read linearly between
    steps. The same holds for a fall.
    """
    if not _differs(run, len(run.steps) - 1, LEVEL):
        return None
    rates = np.asarray(run.rates, float)
    sign = 1.0 if rates[-1] >= rates[0] else -1.0
    weights = np.asarray(run.answers, float)
    fit = sign * scipy.optimize.isotonic_regression(sign * rates, weights=weights).x
    share = (fit - fit[0]) / (fit[-1] - fit[0])
    after = int(np.argmax(share >= 0.5))
    return float(np.interp(0.5, share[after - 1 : after + 1], run.steps[after - 1 : after + 1]))


def over_runs(steps: Sequence[float | None]) -> Moment:
    """Average the steps of those runs that have one, with Student's interval over them."""
    return _mean(steps, least=0.0)


def lag(later: Sequence[float | None], earlier: Sequence[float | None]) -> Moment:
    """Average `later - earlier` over the runs that have both steps."""
    pairs = zip(later, earlier, strict=True)
    return _mean([None if a is None or b is None else a - b for a, b in pairs], least=-math.inf)


def _mean(steps: Sequence[float | None], least: float) -> Moment:
    found = [step for step in steps if step is not None]
    if not found:
        return Moment(None, None, None, 0, len(steps))
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Moment(mean, None, None, 1, len(steps))
    half = t_quantile(len(found) - 1) * standard_error(found)
    return Moment(mean, max(least, mean - half), mean + half, len(found), len(steps))


def _differs(run: Run, at: int, level: float) -> bool:
    after, base = (
        wilson(run.rates[i] * run.answers[i], run.answers[i], level=level) for i in (at, 0)
    )
    low, high = newcombe(after, base)
    return math.isfinite(low) and (low > 0 or high < 0)
