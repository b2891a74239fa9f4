"""Rates with 95 % confidence intervals, and changes between two rates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

import scipy

from backdoor_assets.records import Rate

LEVEL = 0.95
WILSON = "Wilson 95 % over answers, one training seed"
WILSON_BASE = "Wilson 95 % over answers of the base"
T_SEEDS = "95 % over training seeds (t, at least Wilson)"
T_PLAIN = "95 % over training seeds (t)"
T_REMOVAL_SEEDS = "95 % over removal seeds (t, at least Wilson), one organism"
MOVER = "MOVER 95 % of the ratio"


def wilson(successes: float, n: float, method: str = WILSON, level: float = LEVEL) -> Rate:
    """Compute a rate with Wilson's score interval (1927). `n` counts answers, at least one.

    `successes` need not be whole: a rate that averages questions with unequal numbers of answers
    is `value * n`.
    """
    if n <= 0:
        raise ValueError("a rate needs at least one answer")
    value, z = successes / n, t_quantile(math.inf, level)
    middle = (successes + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(max(0.0, n * value * (1 - value)) + z**2 / 4)
    low, high = middle - half, middle + half
    # Rounding may leave the end of an interval beside the rate that it must contain.
    return Rate(value, max(0.0, min(low, value)), min(1.0, max(high, value)), method, round(n))


def over_seeds(values: Sequence[float], answers: Sequence[float], method: str = T_SEEDS) -> Rate:
    """Average the rates of the seeds, with a 95 % interval that has the seed as its unit.

    It is Student's t interval over the seeds' rates, widened where it is narrower than Wilson's
    interval over all answers: the rates of three seeds may agree by chance, and an interval
    narrower than the noise of sampling alone cannot be right. It is clipped to [0, 1]; `n` counts
    seeds, and `method` is what the interval is called. A single seed has no spread: its interval is
    Wilson's, and its `method` says so.

    Where seeds do not differ at all, the interval covers the truth in up to 99 % of studies; where
    a rate near 0 or 1 differs much between seeds, in less than 95 % (docs/statistics.md).
    """
    if len(values) != len(answers):
        raise ValueError("over_seeds needs one rate and one count of answers per seed")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"over_seeds needs a rate for each seed, and got {list(values)}")
    mean, total = statistics.fmean(values), sum(answers)
    noise = wilson(mean * total, total)
    if len(values) == 1:
        return noise
    half = t_quantile(len(values) - 1) * standard_error(values)
    low, high = min(mean - half, noise.low), max(mean + half, noise.high)
    return Rate(mean, max(0.0, low), min(1.0, high), method, len(values))


def noise_error(rate: Rate) -> float:
    """Return the standard error that half of a 95 % interval over answers stands for."""
    return (rate.high - rate.low) / 2 / t_quantile(math.inf)


def standard_error(values: Sequence[float]) -> float:
    """Compute the standard error of the mean of at least two values."""
    return statistics.stdev(values) / math.sqrt(len(values))


@lru_cache(maxsize=1024)
def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """Compute the number of standard errors to each side of a two-sided interval."""
    return float(scipy.stats.t.ppf((1 + level) / 2, degrees))


def newcombe(after: Rate, before: Rate) -> tuple[float, float]:
    """Compute the interval of after - before from the intervals of both (Newcombe 1998, method 10).

    It treats the two as independent.
    """
    change = after.value - before.value
    low = change - math.hypot(after.value - after.low, before.high - before.value)
    high = change + math.hypot(after.high - after.value, before.value - before.low)
    return low, high


def relative_change(before: Rate, after: Rate) -> tuple[float, float, float] | None:
    """Compute (after - before) / before with a 95 % interval: -0.2 is a loss of a fifth.

    Uses MOVER for a ratio (Donner and Zou 2012). It combines the intervals of the two rates, and
    so works with Wilson's and Student's intervals alike. It treats the two rates as independent.
    Rates on the same questions are not, which makes the interval too wide rather than too narrow.
    Returns None if `before` is not significantly above zero: a relative change is then undefined.
    """
    a, b = after.value, before.value
    if before.low <= 0 or before.high >= 2 * b:
        return None
    under, over = before.high * (2 * b - before.high), before.low * (2 * b - before.low)
    # max: rounding may give a value just below zero if an interval has no width
    low = a * b - math.sqrt(max(0.0, (a * b) ** 2 - after.low * (2 * a - after.low) * under))
    high = a * b + math.sqrt(max(0.0, (a * b) ** 2 - after.high * (2 * a - after.high) * over))
    return a / b - 1, low / under - 1, high / over - 1
