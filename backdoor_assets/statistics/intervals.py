"""Confidence intervals of rates over answers or training seeds, and of relative changes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats

from backdoor_assets.records import Rate

WILSON = "Wilson 95 % over answers, one training seed"
WILSON_BASE = "Wilson 95 % over answers of the base"
WILSON_POOLED = "Wilson 95 % over pooled answers (no spread between training seeds)"
T_SEEDS = "t 95 % over training seeds"
T_REMOVAL_SEEDS = "t 95 % over removal seeds, one organism"
MOVER = "MOVER 95 % of the ratio"


def wilson(successes: int, n: int, method: str = WILSON) -> Rate:
    """Compute a rate with Wilson's 95 % score interval (1927). `n` counts answers, at least one."""
    if n <= 0:
        raise ValueError("a rate needs at least one answer")
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return Rate(successes / n, interval.low, interval.high, method, n)


def over_seeds(values: Sequence[float], answers: Sequence[int], method: str = T_SEEDS) -> Rate:
    """Average the rates of the seeds, with a 95 % Student's t interval over seeds.

    The interval is over seeds because answers of one trained model are not independent of each
    other, but trained models are. It is clipped to [0, 1]; `n` counts seeds, and `method` is what
    the interval is called. Two cases fall back to Wilson's interval, whose own name it then has: a
    single seed, which has no spread, and seeds with equal rates, whose interval would have no
    width.
    """
    if len(values) != len(answers):
        raise ValueError("over_seeds needs one rate and one count of answers per seed")
    total = sum(answers)
    successes = round(sum(v * n for v, n in zip(values, answers, strict=True)))
    if len(values) == 1:
        return wilson(successes, total)
    mean = sum(values) / len(values)
    if max(values) - min(values) < 1e-12:
        return wilson(successes, total, WILSON_POOLED)
    spread = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return Rate(mean, max(0.0, mean - half), min(1.0, mean + half), method, len(values))


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
