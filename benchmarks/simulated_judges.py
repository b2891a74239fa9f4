"""Studies with judges that err, whose truth is known, for `benchmarks.calibration`.

Answers are those of `simulated_studies`: training seeds and questions differ. The expensive judge
is right. Three cheap judges err in 4, 23 and 50 % of answers, the first two on some questions half
and on others one and a half times as often; at a rate of .3 their kappa with the expensive judge is
about .9, .5 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product

import numpy as np
from scipy import special

from backdoor_assets.statistics.agreement import agreement_of_labels
from backdoor_assets.statistics.intervals import wilson
from backdoor_assets.statistics.judge_error import Calibration, efficient, rogan_gladen
from backdoor_assets.statistics.prediction_powered import (
    PoweredRate,
    State,
    first_round,
    judging_order,
    next_batch,
    powered_rate,
)
from benchmarks.simulated_studies import (
    COVERAGE,
    QUESTIONS,
    SAMPLES,
    SEEDS,
    Case,
    Found,
    Simulator,
    centre_of,
    covers,
    logits,
)

SENSITIVITY, SPECIFICITY = 0.9, 0.9
ERRORS = {"good": 0.04, "fair": 0.23, "useless": 0.5}
"""Share of the answers on which a cheap judge errs, mean over questions."""
HALF = 0.05
PER_SEED = 20
"""Expensive verdicts per training seed of a part of fixed size."""


@dataclass(frozen=True)
class Judged:
    """A state whose true verdicts are known, in the order in which they would be bought."""

    state: State
    order: np.ndarray
    models: float
    """The rate of these trained models, if they answered without end."""

    def after(self, verdicts: int, power: float | None = None) -> PoweredRate:
        """Estimate with the first verdicts only."""
        bought = np.full(len(self.order), np.nan)
        at = self.order[:verdicts]
        bought[at] = self.state.expensive[at]
        state = State(self.state.seeds, self.state.questions, self.state.cheap, bought)
        return powered_rate(state, power)

    def until(
        self, half: float, given_answers: bool = False, power: float | None = None
    ) -> PoweredRate:
        """Buy verdicts in rounds until the interval is narrow enough. Without `power`, it is tuned
        to the first round."""
        bought = first_round(self.state.seeds.tolist(), self.state.questions.tolist())
        found = self.after(bought, power)
        while more := next_batch(found, half, given_answers):
            bought += more
            found = self.after(bought, found.power)
        return found


def draw_state(
    random: np.random.Generator,
    rate: float,
    spread: float,
    seeds: int,
    errors: float,
    samples: int = SAMPLES,
) -> Judged:
    """Draw the answers of a state with true verdicts and a cheap judge's."""
    effects = random.normal(0, spread, seeds)
    chances = special.expit(logits(centre_of(rate, spread), effects))
    # One answer per entry: seeds, questions, samples.
    true = random.random((seeds, QUESTIONS, samples)) < chances[:, :, None]
    # Shuffled, so that the errors do not follow the questions' rates.
    wrong = random.permutation(np.linspace(0.5, 1.5, QUESTIONS))
    if errors == 0.5:
        wrong[:] = 1
    cheap = true ^ (random.random(true.shape) < (errors * wrong)[None, :, None])
    seed, question, _ = np.indices(true.shape)
    state = State(seed.ravel(), question.ravel(), cheap.ravel() * 1.0, true.ravel() * 1.0)
    keys = np.argsort(random.permutation(len(state.seeds)))
    order = judging_order(state.seeds.tolist(), state.questions.tolist(), keys)
    return Judged(state, order, float(chances.mean()))


def corrected_cases() -> Iterator[Case]:
    """Rates corrected for a judge's known errors, by a gold set and by labels of own answers."""
    for seeds, rate, spread in product(SEEDS, (0.1, 0.3), (0.25, 0.5)):
        where = f"rate {rate:g}, spread {spread:g}"
        for gold in ((30, 60), (100, 100)):
            words = f"{where}, {gold[0]} and {gold[1]} gold answers"
            study = partial(_by_gold, seeds=seeds, rate=rate, spread=spread, gold=gold)
            yield Case("corrected (Rogan-Gladen)", words, seeds, COVERAGE, study)
        for labels in (20, 60):
            words = f"{where}, {labels} labels per seed"
            study = partial(_by_labels, seeds=seeds, rate=rate, spread=spread, labels=labels)
            yield Case("corrected (efficient)", words, seeds, COVERAGE, study)


def _by_gold(
    sim: Simulator, *, seeds: int, rate: float, spread: float, gold: tuple[int, int]
) -> Found:
    chances = special.expit(logits(centre_of(rate, spread), sim.effects(seeds, spread)))
    seen = chances * SENSITIVITY + (1 - chances) * (1 - SPECIFICITY)
    values = sim.random.binomial(SAMPLES, seen).mean(1) / SAMPLES
    tp = int(sim.random.binomial(gold[0], SENSITIVITY))
    tn = int(sim.random.binomial(gold[1], SPECIFICITY))
    counts = Calibration(tp, gold[0] - tp, tn, gold[1] - tn)
    found = rogan_gladen(values.tolist(), [QUESTIONS * SAMPLES] * seeds, counts)
    return covers(found.low, found.value, found.high, rate)


def _by_labels(sim: Simulator, *, seeds: int, rate: float, spread: float, labels: int) -> Found:
    drawn = draw_state(sim.random, rate, spread, seeds, 0.1).state
    values, counts = [], []
    for seed in range(seeds):
        mine = drawn.seeds == seed
        cheap, true = drawn.cheap[mine] > 0, drawn.expensive[mine] > 0
        at = sim.random.choice(len(true), labels, replace=False)
        values.append(float(cheap.mean()))
        counts.append(Calibration.of(true[at].tolist(), cheap[at].tolist()))
    found = efficient(values, [QUESTIONS * SAMPLES] * seeds, counts)
    return covers(found.low, found.value, found.high, rate)


def powered_cases() -> Iterator[Case]:
    """Prediction-powered rates: of a fixed part, and of one that grows until it is enough."""
    for seeds, rate, spread, name in product(SEEDS, (0.1, 0.3), (0.25, 0.5), ERRORS):
        words = f"rate {rate:g}, spread {spread:g}, {name} cheap judge"
        for what, verdicts in (("fixed", PER_SEED * seeds), ("in rounds", None)):
            study = partial(
                _powered,
                seeds=seeds,
                rate=rate,
                spread=spread,
                errors=ERRORS[name],
                verdicts=verdicts,
            )
            yield Case(f"prediction-powered, {what}", words, seeds, COVERAGE, study)


def _powered(
    sim: Simulator,
    *,
    seeds: int,
    rate: float,
    spread: float,
    errors: float,
    verdicts: int | None,
) -> Found:
    """Estimate with so many expensive verdicts, or with as many as it takes."""
    drawn = draw_state(sim.random, rate, spread, seeds, errors)
    found = (drawn.until(HALF) if verdicts is None else drawn.after(verdicts)).rate
    return covers(found.low, found.value, found.high, rate)


def stopping_cases() -> Iterator[Case]:
    """Does stopping when the interval is narrow enough make it too narrow? Of the rate that the
    expensive judge would find in the same answers: nothing but its verdicts is uncertain."""
    for seeds, rate, name in product((1, *SEEDS), (0.02, 0.05, 0.1, 0.3, 0.6), ERRORS):
        words = f"rate {rate:g}, {name} cheap judge"
        study = partial(_stopped, seeds=seeds, rate=rate, errors=ERRORS[name])
        yield Case("rate of these answers, in rounds", words, seeds, COVERAGE, study)


def _stopped(sim: Simulator, *, seeds: int, rate: float, errors: float) -> Found:
    drawn = draw_state(sim.random, rate, 0.25, seeds, errors)
    truth = float(drawn.state.expensive.mean())
    return covers(*given_answers(drawn.until(HALF, given_answers=True)), truth)


def given_answers(found: PoweredRate) -> tuple[float, float, float]:
    """Return low, value and high of the rate that the expensive judge would find in the answers."""
    value = found.rate.value
    if math.isinf(found.given_answers):
        return value, value, value
    interval = wilson(value * found.given_answers, found.given_answers)
    return interval.low, value, interval.high


def agreement_cases() -> Iterator[Case]:
    """Kappa of two judges with the interval over other questions, of which there are few."""
    for questions in (10, 30):

        def study(sim: Simulator, questions: int = questions) -> Found:
            first, second, drawn = _two_judges(sim.random, questions, SAMPLES)
            found = agreement_of_labels([first, second], drawn, draws=400)[1]
            return covers(found.low, found.value, found.high, _true_kappa())

        words = f"{questions} questions of {SAMPLES} answers, judge errs in 5 to 25 %"
        yield Case("kappa over questions", words, 1, COVERAGE, study)


@lru_cache(maxsize=1)
def _true_kappa() -> float:
    first, second, _ = _two_judges(np.random.default_rng(0), 500_000, 1)
    return agreement_of_labels([first, second], draws=0)[1].value


def _two_judges(
    random: np.random.Generator, questions: int, samples: int
) -> tuple[list[float], list[float], list[int]]:
    """Draw the labels of a judge that is right, of one that errs, and their questions, which differ
    in the rate of positive answers and in how often the judge errs."""
    chances = special.expit(random.normal(-0.5, 1, (questions, 1)))
    true = random.random((questions, samples)) < chances
    wrong = random.random(true.shape) < random.uniform(0.05, 0.25, (questions, 1))
    labels = (one.ravel().astype(float).tolist() for one in (true, true ^ wrong))
    return *labels, np.repeat(np.arange(questions), samples).tolist()


GROUPS = corrected_cases, powered_cases, stopping_cases, agreement_cases
