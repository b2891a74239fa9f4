"""The precision of a study before it is run: from components of variance, the width of its
intervals, the smallest difference that it finds, and how to spend a budget best.

The model: training seed s answers question q, in a mixture of one ratio, at the rate

    p(s, q) = rate + seed(s) + question(q) + both(s, q)

and each answer is a draw of that rate. A seed's rate is the mean over questions. Questions are the
same in every cell, so that their differences do not widen its interval. Its variance is

    seeds + within / (questions x samples)

where `seeds` is the variance of seed(s) plus the mean over questions of both(s, q), and `within`
the mean of p(s, q) (1 - p(s, q)). So answers cannot narrow an interval beyond what seeds allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

from backdoor_assets.statistics.contrasts import errors_to_detect
from backdoor_assets.statistics.intervals import noise_error, t_quantile, wilson

TOLERANCE = 1.05
"""An interval that is wider by at most this factor counts as the same."""
_GRID = (np.arange(64) + 0.5) / 64
"""Probabilities at which distributions are read to average over them."""


@dataclass(frozen=True)
class Components:
    """Components of the variance of rates, and the mean rate they hold for."""

    rate: float
    seeds: float
    """Variance between training seeds of the mean over these questions."""
    questions: float
    """Variance between questions."""
    within: float
    """Variance of one answer, within seed and question."""

    def error(self, seeds: int, samples: int, questions: int) -> float:
        """Compute the standard error of a mean over seeds."""
        return math.sqrt((self.seeds + self.within / (questions * samples)) / seeds)


@dataclass(frozen=True)
class Size:
    """What a grid has, whatever its seeds, samples and checkpoints."""

    ratios: int
    questions: int

    def answers(self, seeds: int, samples: int, states: float) -> int:
        """Count answers of all cells at `states` checkpoints each, and of the base once."""
        return round(self.questions * samples * (self.ratios * seeds * states + 1))


@dataclass(frozen=True)
class Budget:
    """A limit in any unit (dollars, GPU hours, answers), and what uses it up."""

    limit: float
    per_cell: float
    """To train one cell."""
    per_answer: float
    """To sample and judge one answer."""


@dataclass(frozen=True)
class Allocation:
    """One way to spend a budget."""

    seeds: int
    samples: int
    """Answers per question, cell and checkpoint."""
    states: float
    """Checkpoints per cell (mean over ratios) whose answers are judged."""
    answers: int
    half: float
    """Expected half width of the 95 % interval of a ratio's rate."""


def components(rates: pd.DataFrame) -> Components | None:
    """Estimate the components by the method of moments (two-way analysis of variance, random
    effects; Searle, Casella and McCulloch 1992, chapter 4).

    `rates` has one row per ratio, seed and question: columns ratio, seed, question_id, value, n
    (answers). With the mean squares of a ratio of S seeds and Q questions,

        within    = mean of value (1 - value) n / (n - 1)
        noise     = mean of value (1 - value) / (n - 1)
        seeds     = variance of the seeds' means - noise / Q
        questions = (mean square of questions - mean square of the residual) / S

    each pooled over ratios, and not below 0. Returns None where no ratio has two seeds with the
    same two questions or more, answered twice or more.
    """
    found = [_of_ratio(group) for _, group in rates[rates["n"] > 1].groupby("ratio")]
    parts = [part for part in found if part]
    if not parts:
        return None
    degrees, *means = zip(*parts, strict=True)
    rate, seeds, questions, within = (float(np.average(m, weights=degrees)) for m in means)
    return Components(rate, max(0.0, seeds), max(0.0, questions), within)


def _of_ratio(group: pd.DataFrame) -> tuple[float, float, float, float, float] | None:
    """Return degrees of freedom between seeds, mean rate, seeds, questions, within."""
    table = group.pivot(index="seed", columns="question_id", values=["value", "n"]).dropna(axis=1)
    if table.empty or min(table["value"].shape) < 2:
        return None
    p, n = table["value"].to_numpy(float), table["n"].to_numpy(float)
    seeds, questions = p.shape
    noise = p * (1 - p) / (n - 1)
    by_seed, by_question = p.mean(1), p.mean(0)
    residual = p - by_seed[:, None] - by_question + p.mean()
    left = float((residual**2).sum()) / ((seeds - 1) * (questions - 1))
    return (
        seeds - 1,
        float(p.mean()),
        float(by_seed.var(ddof=1) - noise.mean() / questions),
        float(by_question.var(ddof=1)) - left / seeds,
        float((noise * n).mean()),
    )


def half_width(found: Components, seeds: int, samples: int, questions: int) -> float:
    """Compute the expected half width of the interval that `over_seeds` gives, clipped to [0, 1].

    It averages over seeds' means and standard deviations (normal and chi, independent). For one
    seed it is Wilson's, which holds the noise of answers only.
    """
    total = seeds * samples * questions
    noise = wilson(found.rate * total, total)
    if seeds == 1:
        return (noise.high - noise.low) / 2
    error = found.error(seeds, samples, questions)
    means = np.clip(found.rate + error * scipy.stats.norm.ppf(_GRID), 0, 1)[:, None]
    spread = error * scipy.stats.chi.ppf(_GRID, seeds - 1) / math.sqrt(seeds - 1)
    halves = t_quantile(seeds - 1) * spread
    low = np.maximum(means - np.maximum(halves, found.rate - noise.low), 0)
    high = np.minimum(means + np.maximum(halves, noise.high - found.rate), 1)
    return float((high - low).mean()) / 2


def detectable(found: Components, seeds: int, samples: int, questions: int) -> float:
    """Compute the smallest difference between two ratios that 80 % of studies find at 5 %, by the
    rule of `contrasts`, if both vary alike and independently. At most 1."""
    total = seeds * samples * questions
    needed = errors_to_detect(math.inf) * noise_error(wilson(found.rate * total, total))
    if seeds > 1:
        each = found.error(seeds, samples, questions)
        needed = max(needed, errors_to_detect(seeds - 1) * each)
    return min(1.0, math.sqrt(2) * needed)


def other_questions(found: Components, half: float, questions: int) -> float:
    """Widen a half width to one that holds for other questions of the same kind."""
    if questions < 2:
        return 1.0
    return math.hypot(half, t_quantile(questions - 1) * math.sqrt(found.questions / questions))


def allocations(
    found: Components,
    size: Size,
    budgets: Sequence[Budget],
    seeds: Iterable[int],
    samples: Iterable[int],
    states: Iterable[float],
) -> list[Allocation]:
    """Return the combinations that fit all budgets, best first.

    The narrowest interval comes first. Those that are wider by 5 % at most count as equal to it: of
    these, the one with most checkpoints comes first (they do not change the interval, but show when
    the change comes), then the one with fewest answers.
    """
    options = [(a, b, c) for a in seeds for b in samples for c in states]
    fitting = list(_fitting(found, size, budgets, options))
    near = TOLERANCE * min((one.half for one in fitting), default=0)
    return sorted(fitting, key=lambda one: (max(one.half, near), -one.states, one.answers))


def _fitting(
    found: Components,
    size: Size,
    budgets: Sequence[Budget],
    options: Iterable[tuple[int, int, float]],
) -> Iterator[Allocation]:
    for seeds, samples, states in options:
        answers, cells = size.answers(seeds, samples, states), size.ratios * seeds
        used = [one.per_cell * cells + one.per_answer * answers for one in budgets]
        # The small tolerance is for the rounding of sums.
        if all(a <= one.limit * (1 + 1e-9) for a, one in zip(used, budgets, strict=True)):
            half = half_width(found, seeds, samples, size.questions)
            yield Allocation(seeds, samples, states, answers, half)
