"""Differences between rates: a mixture against the control, a checkpoint against the base."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import scipy

from backdoor_assets.records import Rate
from backdoor_assets.statistics.intervals import (
    LEVEL,
    newcombe,
    noise_error,
    standard_error,
    t_quantile,
    wilson,
)

PAIRED = "95 % over training seeds (paired t, at least Newcombe)"
AGAINST_BASE = "95 % over training seeds (t, at least Newcombe)"
NEWCOMBE = "Newcombe 95 % over answers, one training seed"
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """A difference of two rates, in [-1, 1], with a 95 % interval."""

    value: float
    low: float
    high: float
    method: str
    seeds: int
    p: float
    """Two-sided, of no difference: the interval at level 1 - p ends at zero."""
    detectable: float
    """The smallest true difference that a study of this spread finds in 80 % of repetitions."""


def against_control(
    values: Sequence[float],
    answers: Sequence[int],
    control: Sequence[float],
    control_answers: Sequence[int],
) -> Difference:
    """Compare rates with those of the control at the same training seeds, one value per seed.

    Seeds are pairs, because a seed sets the initial adapter. The interval is Student's over the
    differences, widened where it is narrower than the noise of sampling (Newcombe's over all
    answers).
    """
    if len(values) != len(control):
        raise ValueError("a paired difference needs the same seeds on both sides")
    differences = [a - b for a, b in zip(values, control, strict=True)]
    return _Comparison(
        _Pooled.of(values, answers),
        _Pooled.of(control, control_answers),
        standard_error(differences) if len(values) > 1 else 0.0,
        0.0,
        len(values),
    ).difference(PAIRED)


def against_base(values: Sequence[float], answers: Sequence[int], base: Rate) -> Difference:
    """Compare rates, one per training seed, with the base's, whose answers all seeds share.

    `base.n` counts answers. The interval combines Student's over seeds with the noise of the base's
    answers, as Newcombe's does with two Wilson intervals.
    """
    return _Comparison(
        _Pooled.of(values, answers),
        _Pooled(base.value, base.n),
        standard_error(values) if len(values) > 1 else 0.0,
        noise_error(base),
        len(values),
    ).difference(AGAINST_BASE)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust the p values of a family for the number of comparisons (Holm 1979): the smallest times
    their number, the next times one less, and none smaller than one before it."""
    adjusted, largest = list(values), 0.0
    for rank, at in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = largest
    return adjusted


@lru_cache(maxsize=256)
def errors_to_detect(degrees: float) -> float:
    """Return how many standard errors large a difference must be, so that a two-sided t test at 5 %
    finds it in 80 % of repetitions (noncentral t)."""
    threshold = t_quantile(degrees)
    if math.isinf(degrees):
        return threshold + float(scipy.stats.norm.ppf(POWER))
    return float(
        scipy.optimize.brentq(
            lambda size: scipy.stats.nct.sf(threshold, degrees, size) - POWER, 0.1, 100
        )
    )


@dataclass(frozen=True)
class _Pooled:
    """A rate over all answers of its seeds."""

    value: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float], answers: Sequence[int]) -> _Pooled:
        return cls(statistics.fmean(values), sum(answers))

    def rate(self, level: float = LEVEL) -> Rate:
        return wilson(self.value * self.n, self.n, level=level)


@dataclass(frozen=True)
class _Comparison:
    after: _Pooled
    before: _Pooled
    spread: float
    """Standard error over seeds, with one degree of freedom less than there are seeds."""
    noise: float
    """Standard error that is known beside it."""
    seeds: int

    def interval(self, level: float) -> tuple[float, float]:
        """Of the interval over seeds and that over answers, the wider end to each side."""
        low, high = newcombe(self.after.rate(level), self.before.rate(level))
        if self.seeds > 1:
            value = self.after.value - self.before.value
            half = math.hypot(
                self.spread * t_quantile(self.seeds - 1, level),
                self.noise * t_quantile(math.inf, level),
            )
            low, high = min(low, value - half), max(high, value + half)
        return max(-1.0, low), min(1.0, high)

    def difference(self, method: str) -> Difference:
        value = self.after.value - self.before.value
        low, high = self.interval(LEVEL)
        several = self.seeds > 1
        return Difference(
            value, low, high, method if several else NEWCOMBE, self.seeds, self._p(value),
            min(1.0, self._detectable()),
        )  # fmt: skip

    def _p(self, value: float) -> float:
        def distance(p: float) -> float:
            """From zero to the end of the interval that faces it; negative: it holds zero."""
            low, high = self.interval(1 - p)
            return low if value > 0 else -high

        least, most = 1e-9, 1 - 1e-9
        if value == 0 or distance(most) <= 0:
            return 1.0
        return (
            least if distance(least) >= 0 else float(scipy.optimize.brentq(distance, least, most))
        )

    def _detectable(self) -> float:
        answers = math.hypot(noise_error(self.after.rate()), noise_error(self.before.rate()))
        smallest = errors_to_detect(math.inf) * answers
        if self.seeds == 1:
            return smallest
        over_seeds = math.hypot(
            errors_to_detect(self.seeds - 1) * self.spread, errors_to_detect(math.inf) * self.noise
        )
        return max(smallest, over_seeds)
