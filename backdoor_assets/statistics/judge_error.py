"""Rates corrected for the known errors of a judge.

A judge with sensitivity Se (share of the truly positive answers that it calls positive) and
specificity Sp (share of the others that it calls negative) turns a true rate t into

    p = t Se + (1 - t) (1 - Sp)

`rogan_gladen` solves this for t. It needs Se and Sp to be the same on the gold answers as on the
sweep's ("they transport"); the gold answers may come from anywhere, in any mixture of classes.

`efficient` needs the gold labels to be those of a random sample of the sweep's own answers, of
each training seed. Then nothing has to transport, and the interval is narrower, because the
labels say something about the rate itself and not only about the judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backdoor_assets.records import BadInput, Rate
from backdoor_assets.statistics.intervals import LEVEL, newcombe, over_seeds, t_quantile, wilson
from backdoor_assets.statistics.prediction_powered import State, powered_rate

ROGAN_GLADEN = "95 % over training seeds and gold answers (Rogan-Gladen)"
ROGAN_GLADEN_ONE = "95 % over answers and gold answers (Rogan-Gladen), one training seed"


@dataclass(frozen=True)
class Calibration:
    """Counts of gold answers: truly positive ones that the judge calls positive (tp) or not (fn),
    and others that it calls negative (tn) or not (fp)."""

    tp: int
    fn: int
    tn: int
    fp: int

    def __post_init__(self) -> None:
        if min(self.tp, self.fn, self.tn, self.fp) < 0:
            raise BadInput(f"{self}: counts must not be negative")

    @classmethod
    def of(cls, truth: Sequence[bool | None], judged: Sequence[bool | None]) -> Calibration:
        """Count the answers that have both labels."""
        if len(truth) != len(judged):
            raise BadInput(f"there are {len(truth)} gold labels, but {len(judged)} verdicts")
        pairs = [
            (bool(t), bool(j))
            for t, j in zip(truth, judged, strict=True)
            if t is not None and j is not None
        ]
        return cls(
            tp=pairs.count((True, True)),
            fn=pairs.count((True, False)),
            tn=pairs.count((False, False)),
            fp=pairs.count((False, True)),
        )

    @property
    def positives(self) -> int:
        return self.tp + self.fn

    @property
    def negatives(self) -> int:
        return self.tn + self.fp

    @property
    def sensitivity(self) -> Rate:
        """With Wilson's interval over gold answers. Raises BadInput if none is positive."""
        self._refuse_one_class()
        return wilson(self.tp, self.positives, "Wilson 95 % over gold answers")

    @property
    def specificity(self) -> Rate:
        """With Wilson's interval over gold answers. Raises BadInput if none is negative."""
        self._refuse_one_class()
        return wilson(self.tn, self.negatives, "Wilson 95 % over gold answers")

    def informedness(self) -> tuple[float, float, float]:
        """Return Se + Sp - 1 (Youden's J: 1 for a perfect judge, 0 for one that guesses) with
        Newcombe's 95 % interval, as (value, low, high)."""
        right = self.sensitivity
        false = wilson(self.fp, self.negatives)
        return right.value - false.value, *newcombe(right, false)

    def _refuse_one_class(self) -> None:
        if not self.positives or not self.negatives:
            raise BadInput(
                f"the gold set has {self.positives} positive and {self.negatives} other answers "
                "with a verdict: both kinds are needed to measure a judge's errors; add the "
                "missing kind"
            )


def rogan_gladen(values: Sequence[float], answers: Sequence[int], calibration: Calibration) -> Rate:
    """Correct the judge's rates of training seeds, one per seed, and average them.

    The estimate is (p + Sp - 1) / (Se + Sp - 1) (Rogan and Gladen, American Journal of Epidemiology
    107, 1978), clipped to [0, 1]. The interval is that of Lang and Reiczigel (Preventive Veterinary
    Medicine 113, 2014; for language models as judges, Lee et al., arXiv 2511.21140), in which the
    interval of the judge's rate over seeds (`over_seeds`) takes the place of that over answers. It
    may lie outside [0, 1] as a whole: the judge calls fewer answers positive than its errors on the
    gold set alone would give. Then it is drawn around 0 (or 1), and the gold set's errors are
    hardly those in the sweep. `n` counts seeds, or answers if there is one seed.

    Raises BadInput if the gold set does not show (95 %) that the judge is better than guessing:
    then its verdicts say nothing about the rate.
    """
    informed, least, _ = calibration.informedness()
    if least <= 0:
        raise BadInput(
            f"sensitivity + specificity - 1 of the judge is {informed:.2f}, and not clearly above "
            f"0 (95 % interval from {least:.2f}) on {calibration.positives} positive and "
            f"{calibration.negatives} other gold answers: its rates cannot be corrected; use a "
            "better judge, or more gold answers"
        )
    seen = over_seeds(values, answers)
    value = (seen.value + calibration.specificity.value - 1) / informed
    value = min(1.0, max(0.0, value))
    # One answer of each outcome is added to both classes, so that a judge without an error on a few
    # gold answers does not count as perfect.
    n_se, n_sp = calibration.positives + 2, calibration.negatives + 2
    se, sp = (calibration.tp + 1) / n_se, (calibration.tn + 1) / n_sp
    factor, z = se + sp - 1, t_quantile(math.inf, LEVEL)
    middle = (seen.value + sp - 1) / factor
    var_se, var_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp

    def ends(rate: float) -> tuple[float, float]:
        shift = 2 * z**2 * (rate * var_se - (1 - rate) * var_sp)
        known = z * math.sqrt(rate**2 * var_se + (1 - rate) ** 2 * var_sp)
        return (
            rate + shift - math.hypot(seen.value - seen.low, known) / factor,
            rate + shift + math.hypot(seen.high - seen.value, known) / factor,
        )

    low, high = ends(middle)
    if high <= 0 or low >= 1:
        low, high = ends(value)
    return Rate(
        value,
        min(value, max(0.0, low)),
        max(value, min(1.0, high)),
        ROGAN_GLADEN if len(values) > 1 else ROGAN_GLADEN_ONE,
        seen.n,
    )


def efficient(
    values: Sequence[float], answers: Sequence[int], calibrations: Sequence[Calibration]
) -> Rate:
    """Correct the judge's rates of training seeds by gold labels of a random sample of each seed's
    own answers, one calibration per seed.

    `values` and `answers` are the judge's rate and the number of answers of each seed, the labelled
    ones among them. The estimator is the efficient one of Chen et al. (arXiv 2601.05420), which for
    a judge that answers yes or no is prediction-powered inference with its power tuned: a seed's
    rate is the mean of its gold labels, plus the tuned power times (the judge's rate over all
    answers - its rate over the labelled ones). See `prediction_powered` for the interval.

    It needs no transport, but a random sample: a gold set that was written or chosen is for
    `rogan_gladen`.
    """
    if not len(values) == len(answers) == len(calibrations):
        raise BadInput(
            f"efficient needs one rate, count and calibration per seed, and got {len(values)}, "
            f"{len(answers)} and {len(calibrations)}: if one gold set serves all seeds, use "
            "rogan_gladen"
        )
    seeds, cheap, gold = [], [], []
    for at, (value, n, counts) in enumerate(zip(values, answers, calibrations, strict=True)):
        labelled = counts.positives + counts.negatives
        positive = round(value * n) - counts.tp - counts.fp
        negative = n - labelled - positive
        if min(positive, negative) < 0:
            raise BadInput(
                f"seed {at}: {counts} is no sample of {n} answers of which the judge calls "
                f"{round(value * n)} positive: count the labelled answers in both"
            )
        groups = (counts.tp, counts.fn, counts.tn, counts.fp, positive, negative)
        cheap.append(np.repeat([1.0, 0, 0, 1, 1, 0], groups))
        gold.append(np.repeat([1.0, 1, 0, 0, np.nan, np.nan], groups))
        seeds.append(np.full(n, at))
    whole = np.concatenate(seeds)
    state = State(whole, np.zeros(len(whole), int), np.concatenate(cheap), np.concatenate(gold))
    return powered_rate(state).rate
