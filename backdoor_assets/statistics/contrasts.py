"""Differences between rates: a mixture against the control, a checkpoint against the base."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.stats import norm

from backdoor_assets.records import Rate
from backdoor_assets.statistics.intervals import newcombe, standard_error, t_quantile, wilson

PAIRED = "95 % over training seeds (paired t, at least Newcombe)"
AGAINST_BASE = "95 % over training seeds (t, at least Newcombe)"
NEWCOMBE = "Newcombe 95 % over answers, one training seed"
UPPER, POWER = 0.975, 0.8
Margin = Callable[[float], float]
"""The distance from an estimate to the end of its interval, by quantile: 0.975 for 95 %."""


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
    if len(values) == 1:
        return _difference(after, before, None, 1, NEWCOMBE)
    spread = standard_error(differences)

    def margin(quantile: float) -> float:
        return spread * t_quantile(len(values) - 1, 2 * quantile - 1)

    return _difference(after, before, margin, len(values), PAIRED)


def against_base(values: Sequence[float], answers: Sequence[int], base: Rate) -> Difference:
    """Compare rates, one per training seed, with the base's, whose answers all seeds share.

    The interval combines Student's over seeds with the noise of the base's answers, like Newcombe's
    does with two Wilson intervals.
    """
    after = _pooled(values, answers)
    if len(values) == 1:
        return _difference(after, base, None, 1, NEWCOMBE)
    spread, noise = standard_error(values), _noise(base)

    def margin(quantile: float) -> float:
        level = 2 * quantile - 1
        return math.hypot(
            spread * t_quantile(len(values) - 1, level), noise * t_quantile(math.inf, level)
        )

    return _difference(after, base, margin, len(values), AGAINST_BASE)


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
    after: Rate, before: Rate, over_seeds: Margin | None, seeds: int, method: str
) -> Difference:
    """Combine the spread between seeds and the noise of answers: of the two intervals and the two p
    values, the more careful."""
    value = after.value - before.value
    low, high = newcombe(after, before)
    p = _p_of_noise(after, before)
    noise = math.hypot(_noise(after), _noise(before))
    detectable = noise * (norm.ppf(UPPER) + norm.ppf(POWER))
    if over_seeds:
        half = over_seeds(UPPER)
        low, high = min(low, value - half), max(high, value + half)
        p = max(p, _p_of_margin(abs(value), over_seeds))
        detectable = max(detectable, half + over_seeds(POWER))
    return Difference(
        value, max(-1.0, low), min(1.0, high), method, seeds, p, min(1.0, float(detectable))
    )


def _p_of_margin(value: float, margin: Margin) -> float:
    """Find the two-sided p at which the interval of a difference ends at zero."""
    least, most = 1e-9, 1.0
    if margin(0.5 + least) >= value or value == 0:
        return most
    if margin(1 - least / 2) <= value:
        return least
    return float(brentq(lambda p: margin(1 - p / 2) - value, least, most - least))


def _p_of_noise(after: Rate, before: Rate) -> float:
    """Test two shares of answers for equality, with the pooled variance."""
    total = after.n + before.n
    share = (after.value * after.n + before.value * before.n) / total
    error = math.sqrt(share * (1 - share) * (1 / after.n + 1 / before.n))
    if error == 0:
        return 1.0
    return float(2 * norm.sf(abs(after.value - before.value) / error))
