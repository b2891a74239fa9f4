"""Rates from a cheap judge's verdicts on all answers and an expensive judge's on a random part.

In a state (a ratio at a checkpoint), each training seed answers each question several times. The
rate of a seed is the mean over questions of

    power * (cheap verdicts, all answers)
      + mean of (expensive verdict - power * cheap verdict), answers that have both

which is unbiased whatever the cheap judge's errors, because the second line measures them
(prediction-powered inference: Angelopoulos et al., arXiv 2301.09633; with a tuned power, PPI++:
arXiv 2311.01453; in strata: Fisch et al., arXiv 2406.04291; in survey statistics, the difference
estimator). A bad cheap judge costs width, not validity. The best power is the slope of the
expensive verdicts on the cheap ones; a power of 0 ignores the cheap judge.

Precision is counted in effective verdicts: how many expensive verdicts, on as many answers, would
be as precise. With n verdicts on N answers, of whose variance a share k is unexplained by the cheap
judge within questions,

    1 / effective = 1 / N + k (1 / n - 1 / N)

The first part is the noise of having sampled N answers; the second that of not having judged all.
So with a verdict on every answer, the interval is that of `over_seeds`. The seed is the unit: the
interval is Student's t over the seeds' rates, at least Wilson's over the effective verdicts.

The part is drawn by `judging_order`: verdicts are given to the answers in that order, in rounds.
After each round, `next_batch` says how many more the wanted half-width takes. A rule that stops
when the interval is narrow enough may stop on a variance that is small by luck. Four things guard
against that: the first round has at least FIRST_ROUND verdicts; the power is that of the first
round (pass it on to `powered_rate`), and drawn towards 0 (HELD_BACK); and some disagreement is
added to that found (ADDED), as Chow and Robbins (Annals of Mathematical Statistics 36, 1965) add
1/n to a variance. Both numbers were chosen by simulation (`benchmarks.simulated_judges`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from backdoor_assets.records import BadInput, Rate
from backdoor_assets.statistics.intervals import standard_error, t_quantile, wilson

POWERED_SEEDS = "95 % over training seeds (t, at least Wilson), prediction-powered"
POWERED_ONE = "Wilson 95 % over effective verdicts, one training seed, prediction-powered"
FIRST_ROUND = 30
"""Expensive verdicts per state, at least, before the first look at the width."""
LARGEST_STEP = 2.0
"""A round may at most double the verdicts: an early variance is uncertain."""
ADDED = 0.75
"""Disagreements that are added to those found between the judges, in the variance."""
HELD_BACK = 1.0
"""Added to the cheap verdicts' sum of squares in the slope: one positive answer on which the judges
happen to agree must not make the cheap judge's false positives on all answers count in full."""
Array = np.ndarray


@dataclass(frozen=True)
class State:
    """The answers of one state over its training seeds, one entry per answer in each array."""

    seeds: Array
    questions: Array
    cheap: Array
    """Verdicts in [0, 1]: a label or a probability. Of an answer that the cheap judge cannot judge,
    any fixed number, such as 0."""
    expensive: Array
    """Verdicts 0 or 1, or in [0, 1]; NaN where there is none."""

    def __post_init__(self) -> None:
        lengths = {len(a) for a in (self.seeds, self.questions, self.cheap, self.expensive)}
        if len(lengths) > 1 or lengths == {0}:
            raise BadInput(f"a state needs one entry per answer in each array, and got {lengths}")
        if np.isnan(self.cheap).any():
            raise BadInput("the cheap judge needs a verdict on every answer; write 0 for none")

    @property
    def judged(self) -> Array:
        """Which answers have an expensive verdict."""
        return ~np.isnan(self.expensive)


@dataclass(frozen=True)
class PoweredRate:
    """A rate over training seeds, and what its precision is made of."""

    rate: Rate
    """`n` counts seeds, or effective verdicts if there is one seed."""
    power: float
    unexplained: float
    """Share of the expensive verdicts' variance that the cheap judge leaves, within questions."""
    verdicts: int
    """Expensive ones."""
    answers: int
    effective: float
    """Expensive verdicts, on as many answers, that would be as precise."""
    given_answers: float
    """The same, if only the noise of not judging all counts: infinite if all are judged."""

    def half_width(self, given_answers: bool = False) -> float:
        """Return half of Wilson's 95 % interval within seeds: of the answers and the verdicts, or
        of the verdicts alone (the rate that the expensive judge would find in these answers)."""
        return half_width(self.rate.value, self.given_answers if given_answers else self.effective)


def judging_order(
    seeds: Sequence[Hashable], questions: Sequence[Hashable], keys: Sequence[float] | Array
) -> Array:
    """Return the positions of a state's answers in the order in which they are to be judged.

    `keys` has a random number per answer, which does not depend on the answer. Of each seed and
    question, the answer with the smallest key is first, in the order of the keys; then a second of
    each, and so on. So any first n answers are a stratified random sample, and a longer one
    contains a shorter one.
    """
    strata = pd.factorize(pd.Series(list(zip(seeds, questions, strict=True)), dtype=object))[0]
    shuffled = np.argsort(keys, kind="stable")
    turn = pd.Series(strata[shuffled]).groupby(strata[shuffled]).cumcount().to_numpy()
    return shuffled[np.argsort(turn, kind="stable")]


def first_round(state_seeds: Sequence[Hashable], questions: Sequence[Hashable]) -> int:
    """Return how many answers to judge before the first look: FIRST_ROUND or more, whole rounds of
    one per seed and question, and two per question."""
    strata = set(zip(state_seeds, questions, strict=True))
    least = max(FIRST_ROUND, 2 * len({question for _, question in strata}))
    return min(len(questions), math.ceil(least / len(strata)) * len(strata))


def powered_rate(state: State, power: float | None = None) -> PoweredRate:
    """Estimate the rate of a state over its training seeds.

    `power` is that of an earlier round; without it, it is tuned to the verdicts at hand (the slope
    within questions over all seeds, between 0 and 1). Raises BadInput if a seed has a question
    without an expensive verdict, or if no question has two.
    """
    seeds, seed = np.unique(state.seeds, return_inverse=True)
    questions, question = np.unique(state.questions, return_inverse=True)
    stratum = seed * len(questions) + question
    judged, size = state.judged, len(seeds) * len(questions)
    answers = np.bincount(stratum, minlength=size)
    verdicts = np.bincount(stratum[judged], minlength=size)
    if (missing := (answers > 0) & (verdicts == 0)).any():
        at = int(np.argmax(missing))
        raise BadInput(
            f"seed {seeds[at // len(questions)]}, question {questions[at % len(questions)]}: no "
            "expensive verdict; a rate needs at least one per seed and question"
        )
    cheap, expensive = state.cheap[judged], state.expensive[judged]
    within = question[judged]
    free = int(judged.sum()) - len(np.unique(within))
    if free < 1:
        raise BadInput("a rate needs at least two expensive verdicts on a question")
    around = _centred(cheap, within), _centred(expensive, within)
    if power is None:
        power = _slope(*around)
    rest = expensive - power * cheap
    present = answers > 0
    means = np.zeros(size)
    means[present] = (
        power * np.bincount(stratum, state.cheap, size)[present] / answers[present]
        + np.bincount(stratum[judged], rest, size)[present] / verdicts[present]
    )
    # Mean over the questions of each seed.
    weight = present.reshape(len(seeds), -1) / present.reshape(len(seeds), -1).sum(1)[:, None]
    values = (means.reshape(len(seeds), -1) * weight).sum(1)
    # Variances of the mean over seeds, in units of one answer's.
    squared = (weight**2).ravel()[present] / len(seeds) ** 2
    per_answer = float((squared / answers[present]).sum())
    per_verdict = float((squared / verdicts[present]).sum())
    unexplained = _unexplained(_centred(rest, within), expensive, free)
    not_judged = unexplained * max(0.0, per_verdict - per_answer)
    effective = 1 / (per_answer + not_judged)
    return PoweredRate(
        _rate(values, effective), power, unexplained, int(judged.sum()), len(seed), effective,
        1 / not_judged if not_judged > 0 else math.inf,
    )  # fmt: skip


def half_width(rate: float, effective: float) -> float:
    """Return half of Wilson's 95 % interval of a rate over that many verdicts; 0 for infinitely
    many."""
    if math.isinf(effective):
        return 0.0
    found = wilson(rate * effective, effective)
    return (found.high - found.low) / 2


def verdicts_needed(
    half: float,
    rate: float,
    answers: int,
    unexplained: float = 1.0,
    given_answers: bool = False,
) -> int:
    """Return how many expensive verdicts, of `answers`, give this half-width within seeds: all of
    them, where fewer do not.

    `unexplained` is 1 without a cheap judge. With one that agrees with the expensive judge to a
    kappa of K and calls as many answers positive, it is about 1 - K^2. `given_answers` counts the
    noise of the verdicts alone, as in `PoweredRate.half_width`.
    """
    if half <= 0:
        raise BadInput(f"a half-width must be positive, and is {half}")
    low, high = 1, answers
    while low < high:
        middle = (low + high) // 2
        wide = unexplained * (1 / middle - 1 / answers) + (0 if given_answers else 1 / answers)
        enough = wide <= 0 or half_width(rate, 1 / wide) <= half
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def next_batch(found: PoweredRate, half: float, given_answers: bool = False) -> int:
    """Return how many more answers to judge, in judging_order, for this half-width: 0 if it is
    reached, or if all answers are judged. A round at most doubles the verdicts."""
    if found.verdicts >= found.answers or found.half_width(given_answers) <= half:
        return 0
    needed = verdicts_needed(
        half, found.rate.value, found.answers, found.unexplained, given_answers
    )
    most = math.ceil(found.verdicts * LARGEST_STEP)
    return min(max(needed, found.verdicts + 1), most, found.answers) - found.verdicts


def _rate(values: Array, effective: float) -> Rate:
    value = min(1.0, max(0.0, float(values.mean())))
    noise = wilson(value * effective, effective, POWERED_ONE)
    if len(values) == 1:
        return noise
    half = t_quantile(len(values) - 1) * standard_error(values.tolist())
    low, high = min(value - half, noise.low), max(value + half, noise.high)
    return Rate(value, max(0.0, low), min(1.0, high), POWERED_SEEDS, len(values))


def _centred(values: Array, groups: Array) -> Array:
    counts = np.maximum(np.bincount(groups), 1)
    return values - (np.bincount(groups, values) / counts)[groups]


def _slope(cheap: Array, expensive: Array) -> float:
    slope = float((cheap * expensive).sum()) / (float((cheap**2).sum()) + HELD_BACK)
    return min(1.0, max(0.0, slope))


def _unexplained(rest: Array, expensive: Array, free: int) -> float:
    """Return the residuals' variance over that of the verdicts, each with ADDED disagreements more
    than were found."""
    total = float(((expensive - expensive.mean()) ** 2).sum())
    left = (float((rest**2).sum()) + ADDED) / free
    return left / ((total + ADDED) / (len(expensive) - 1))
