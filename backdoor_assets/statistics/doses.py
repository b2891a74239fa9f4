"""Dose-response: the dose of half of the effect, from a fitted curve and from a monotone fit.

The effect is the difference between the rates at the largest and at the smallest dose. The fitted
curve is Hill's, the field's standard for dose-response, scaled to end at the largest dose:

    rate(x) = lowest + effect * x^h (1 + c) / (x^h + c),  x = dose / largest dose

with h > 0 and c > 0; for large c it becomes the power curve x^h. Beside it stands the monotone fit
(isotonic regression), which assumes nothing but that more suspect rows do not lessen the effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from backdoor_assets.records import Rate
from backdoor_assets.statistics.intervals import (
    newcombe,
    noise_error,
    over_seeds,
    standard_error,
    wilson,
)

LEAST_DOSES = 6
"""Of a fitted curve, which has four parameters."""
DRAWS = 1000
_POWERS = np.geomspace(0.2, 12, 30)
_SHAPES = np.geomspace(1e-3, 1e5, 17)
Array = np.ndarray


@dataclass(frozen=True)
class HalfDose:
    """The dose of half of the effect, in the unit of the doses, with a 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DoseResponse:
    """Both fits of one outcome."""

    doses: Array
    monotone: Array
    """Rates of the monotone fit at `doses`."""
    half_monotone: HalfDose
    half_curve: HalfDose | None
    """None with fewer than LEAST_DOSES doses."""
    curve: tuple[Array, Array] | None
    """(doses, rates) of the fitted curve, for drawing."""


def dose_response(
    doses: Sequence[float],
    rates: Sequence[Sequence[float]],
    answers: Sequence[Sequence[int]],
    draws: int = DRAWS,
) -> DoseResponse | None:
    """Fit the rates of training seeds, one list per dose, by least squares.

    Intervals are percentiles over fits to `draws` (by default 1000) sets of rates, each rate drawn
    from Student's distribution around its mean over seeds, with its standard error (at least that
    of sampling answers). The random stream is fixed. Returns None with fewer than three doses, or
    if the rates at the largest and the smallest dose do not differ (95 %): then there is no half of
    an effect.
    """
    order = np.argsort(doses)
    at = np.asarray(doses, float)[order]
    if len(np.unique(at)) < 3 or len(np.unique(at)) < len(at):
        return None
    ends = (over_seeds(rates[order[end]], answers[order[end]]) for end in (-1, 0))
    low, high = newcombe(*ends)
    if low <= 0 <= high:
        return None
    means, errors, degrees = map(
        np.array, zip(*(_mean(rates[i], answers[i]) for i in order), strict=True)
    )
    sign = 1.0 if means[-1] >= means[0] else -1.0
    random = np.random.default_rng(0)
    noise = random.standard_normal((draws, len(at)))
    several = np.isfinite(degrees)
    if several.any():
        noise[:, several] = random.standard_t(degrees[several], (draws, int(several.sum())))
    samples = np.vstack([means, np.clip(means + errors * noise, 0, 1)])
    fits = np.array(
        [sign * scipy.optimize.isotonic_regression(sign * sample).x for sample in samples]
    )
    monotone = _half_dose(np.array([_crossing(at, fit) for fit in fits]))
    if monotone is None:
        return None
    half_curve = curve = None
    if len(at) >= LEAST_DOSES:
        lowest, effect, power, shape = _hill(at / at[-1], samples)
        rises = sign * effect > 0
        # The share of the curve that lies halfway between the smallest and the largest dose.
        middle = (_shape(at[0] / at[-1], power, shape) + 1) / 2
        halves = (middle * shape / (1 + shape - middle)) ** (1 / power)
        half_curve = _half_dose(at[-1] * np.where(rises, halves, np.nan))
        x = np.linspace(at[0], at[-1], 101) / at[-1]
        curve = x * at[-1], lowest[0] + effect[0] * _shape(x, power[0], shape[0])
    return DoseResponse(at, fits[0], monotone, half_curve, curve if half_curve else None)


def _mean(values: Sequence[float], answers: Sequence[int]) -> tuple[float, float, float]:
    """Return the mean over seeds, its standard error, and degrees of freedom."""
    total, mean = sum(answers), float(np.mean(values))
    noise: Rate = wilson(mean * total, total)
    error = noise_error(noise)
    if len(values) == 1:
        return mean, error, np.inf
    return mean, max(error, standard_error(values)), len(values) - 1


def _half_dose(found: Array) -> HalfDose | None:
    """Return the first value with percentiles of the others; None where the first is undefined or
    more than 2.5 % of the others are: then some fits have no effect at all."""
    drawn = found[1:]
    if np.isnan(found[0]) or np.isnan(drawn).mean() > 0.025:
        return None
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return HalfDose(float(found[0]), float(min(low, found[0])), float(max(high, found[0])))


def _crossing(doses: Array, fit: Array) -> float:
    """Return where a monotone line through `fit` crosses the middle between its ends; NaN if it is
    flat."""
    if fit[0] == fit[-1]:
        return float("nan")
    share = (fit - fit[0]) / (fit[-1] - fit[0])
    after = int(np.argmax(share >= 0.5))
    left, right = share[after - 1], share[after]
    return float(
        doses[after - 1] + (doses[after] - doses[after - 1]) * (0.5 - left) / (right - left)
    )


def _shape(x: Array | float, power: Array | float, shape: Array | float) -> Array:
    raised = np.asarray(x) ** power
    return raised * (1 + shape) / (raised + shape)


def _hill(x: Array, samples: Array) -> tuple[Array, Array, Array, Array]:
    """Fit each row of `samples` (fits, doses) and return lowest, effect, power and shape of each.

    Power and shape are searched on a grid; given them, the other two are linear.
    """
    best = np.full(len(samples), np.inf)
    found = np.zeros((4, len(samples)))
    for power in _POWERS:
        for shape in _SHAPES:
            basis = _shape(x, power, shape)
            if np.ptp(basis) < 1e-9:
                continue
            design = np.column_stack([np.ones_like(x), basis])
            inverse = np.linalg.pinv(design)
            coefficients = samples @ inverse.T
            errors = ((samples - coefficients @ design.T) ** 2).sum(1)
            better = errors < best
            best[better] = errors[better]
            found[:2, better] = coefficients[better].T
            found[2:, better] = np.array([[power], [shape]])
    return found[0], found[1], found[2], found[3]
