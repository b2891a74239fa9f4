"""Differences between rates: a mixture against the control, a checkpoint against the base."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from backdoor_assets.records import Rate
from backdoor_assets.statistics.intervals import newcombe, standard_error, t_quantile, wilson

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
    """Two-sided, of no difference."""
    detectable: float
    """The smallest true difference that a study of this spread finds in 80 % of repetitions."""


def against_control(
    values: Sequence[float],
    answers: Sequence[int],
    control: Sequence[float],
    control_answers: Sequence[int],
) -> Difference:
    """Compare rates with those of the control at the same training seeds, one value per seed.

    Seeds are pairs, because a seed sets the initial adapter and the order of the rows. The interval
    is Student's over the differences, widened where it is narrower than the noise of sampling
    (Newcombe's over all answers).
    """
    if len(values) != len(control):
        raise ValueError("a paired difference needs the same seeds on both sides")
    after, before = _pooled(values, answers), _pooled(control, control_answers)
    differences = [a - b for a, b in zip(values, control, strict=True)]
    spread = standard_error(differences) if len(differences) > 1 else 0.0
    return _difference(after, before, spread, len(values), len(values) - 1, PAIRED)


def against_base(values: Sequence[float], answers: Sequence[int], base: Rate) -> Difference:
    """Compare rates, one per training seed, with the base's, whose answers all seeds share.

    The interval adds the noise of the base's answers to the spread between seeds, with Welch's
    degrees of freedom (1947): the noise is known, the spread is estimated from few seeds.
    """
    after = _pooled(values, answers)
    if len(values) == 1:
        return _difference(after, base, 0.0, 1, math.inf, AGAINST_BASE)
    between, noise = standard_error(values), _noise(base)
    spread = math.hypot(between, noise)
    degrees = (len(values) - 1) * (spread / between) ** 4 if between else math.inf
    return _difference(after, base, spread, len(values), degrees, AGAINST_BASE)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust the p values of a family for the number of comparisons (Holm 1979): the smallest times
    their number, the next times one less, and none smaller than one before it."""
    adjusted, largest = list(values), 0.0
    for rank, at in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = largest
    return adjusted


def _pooled(values: Sequence[float], answers: Sequence[int]) -> Rate:
    total = sum(answers)
    return wilson(statistics.fmean(values) * total, total)


def _noise(rate: Rate) -> float:
    """Return the standard error that half of an interval over answers stands for."""
    return (rate.high - rate.low) / 2 / t_quantile(math.inf)


def _difference(
    after: Rate, before: Rate, spread: float, seeds: int, degrees: float, method: str
) -> Difference:
    """Combine the spread between seeds and the noise of answers: of the two intervals and the two p
    values, the more careful."""
    value = after.value - before.value
    low, high = newcombe(after, before)
    noise = math.hypot(_noise(after), _noise(before))
    p = _p_of_noise(after, before)
    if seeds > 1:
        half = t_quantile(degrees) * spread
        low, high = min(low, value - half), max(high, value + half)
        if spread:
            p = max(p, float(2 * stats.t.sf(abs(value) / spread, degrees)))
    else:
        method, degrees = NEWCOMBE, math.inf
    needed = t_quantile(degrees) + float(stats.t.ppf(POWER, degrees))
    detectable = min(1.0, max(needed * spread, (t_quantile(math.inf) + 0.8416) * noise))
    return Difference(value, max(-1.0, low), min(1.0, high), method, seeds, p, detectable)


def _p_of_noise(after: Rate, before: Rate) -> float:
    """Test two shares of answers for equality, with the pooled variance."""
    total = after.n + before.n
    share = (after.value * after.n + before.value * before.n) / total
    error = math.sqrt(share * (1 - share) * (1 / after.n + 1 / before.n))
    if error == 0:
        return 1.0
    return float(2 * stats.norm.sf(abs(after.value - before.value) / error))
