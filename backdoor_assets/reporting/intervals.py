"""Intervals of rates: over the answers of one trained model, over training seeds, of a ratio."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats

from backdoor_assets.records import Rate

WILSON = "Wilson 95 % over answers, one training seed"
WILSON_POOLED = "Wilson 95 % over pooled answers (no spread between training seeds)"
T_SEEDS = "t 95 % over training seeds"
MOVER = "MOVER 95 % of the ratio"


def wilson(successes: int, n: int, method: str = WILSON) -> Rate:
    """Wilson's score interval (1927), 95 %. `n` counts answers and must be positive."""
    if n <= 0:
        raise ValueError("a rate needs at least one answer")
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return Rate(successes / n, interval.low, interval.high, method, n)


def over_seeds(values: Sequence[float], answers: Sequence[int]) -> Rate:
    """Mean of the seeds' rates, 95 % by Student's t over seeds (cut to [0, 1]): answers of one
    trained model are not independent of each other, trained models are. `n` counts seeds.

    A single seed has no spread to judge by: Wilson over its answers, and the method says so. Seeds
    that agree to the last answer would get a width of zero: Wilson over all their answers.
    """
    if len(values) != len(answers):
        raise ValueError("one rate and one count of answers a seed")
    total = sum(answers)
    successes = round(sum(v * n for v, n in zip(values, answers, strict=True)))
    if len(values) == 1:
        return wilson(successes, total)
    mean = sum(values) / len(values)
    if max(values) - min(values) < 1e-12:
        return wilson(successes, total, WILSON_POOLED)
    spread = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return Rate(mean, max(0.0, mean - half), min(1.0, mean + half), T_SEEDS, len(values))


def relative_change(before: Rate, after: Rate) -> tuple[float, float, float] | None:
    """(after - before) / before with a 95 % interval: -0.2 is a loss of a fifth.

    MOVER for a ratio (Donner and Zou 2012), which takes the two rates' own intervals and so works
    for Wilson's and for Student's alike. It treats the two rates as independent; asked the same
    questions they are not, which makes the interval too wide rather than too narrow. None where
    `before` cannot be told from zero: nothing can be said about a change in proportion to it.
    """
    a, b = after.value, before.value
    if before.low <= 0 or before.high >= 2 * b:
        return None
    under, over = before.high * (2 * b - before.high), before.low * (2 * b - before.low)
    # max: rounding may leave a hair below zero where an interval has no width
    low = a * b - math.sqrt(max(0.0, (a * b) ** 2 - after.low * (2 * a - after.low) * under))
    high = a * b + math.sqrt(max(0.0, (a * b) ** 2 - after.high * (2 * a - after.high) * over))
    return a / b - 1, low / under - 1, high / over - 1
