"""How well judges agree on the same answers, beyond chance.

For labels: the share of equal ones, Cohen's kappa (Educational and Psychological Measurement 20,
1960) and Krippendorff's alpha for nominal data. For ratings: the mean absolute difference, kappa
with quadratic weights (Cohen, Psychological Bulletin 70, 1968) and Krippendorff's alpha for
interval data. Alpha follows Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): it
takes any number of judges, and counts an answer as soon as two of them have a verdict on it.

Each of these is a function of sums over answers. So an answer is stored as the terms that it adds,
and a bootstrap draw is a sum with other weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

from backdoor_assets.records import BadInput
from backdoor_assets.statistics.intervals import t_quantile

DRAWS = 2000
_CHUNK = 200
_MOST_UNDEFINED = 0.05
Array = np.ndarray
Labels = Sequence[str | float | None]
"""The verdicts of one judge, one per answer; None where there is none."""


@dataclass(frozen=True)
class Agreement:
    """One measure of agreement, with an (expanded) percentile-bootstrap 95 % interval."""

    measure: str
    value: float
    """NaN if it is undefined: all verdicts are the same, or there is no pair of them."""
    low: float
    high: float
    """NaN if the value is, or if more than 5 % of the bootstrap's draws are undefined."""
    answers: int
    """Answers with at least two verdicts."""
    clusters: int
    """Units that were drawn: the clusters of those answers, or the answers."""


def confusion(first: Labels, second: Labels, options: Sequence[str] = ()) -> pd.DataFrame:
    """Count answers by both labels: rows of the first judge, columns of the second.

    An answer without a verdict by either is left out. `options` gives the labels and their order;
    without it, they are the labels that occur, sorted.
    """
    _same_length([first, second])
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    found = sorted({str(label) for pair in pairs for label in pair})
    labels = list(options) or found
    if unknown := [label for label in found if label not in labels]:
        raise BadInput(f"labels {unknown} are none of {labels}")
    table = pd.DataFrame(0, index=pd.Index(labels, name="first"), columns=labels)
    table.columns.name = "second"
    for a, b in pairs:
        table.loc[str(a), str(b)] += 1  # pyright: ignore
    return table


def agreement_of_labels(
    judges: Sequence[Labels], clusters: Sequence[Hashable] | None = None, draws: int = DRAWS
) -> list[Agreement]:
    """Return "share equal" and "kappa" of two judges, and "alpha" of any number of them.

    `clusters` names, for each answer, what is drawn as a whole, such as its question. Then the
    interval is over other questions of this kind; without it, over other answers to the same
    questions.
    """
    codes = _codes(judges)
    kinds = int(np.nanmax(codes, initial=-1)) + 1
    measures = [("alpha", *_nominal_alpha(codes, kinds))]
    if len(judges) == 2:
        both = ~np.isnan(codes).any(0)
        cell = np.where(both, codes[0] * kinds + codes[1], -1)
        table = (cell[:, None] == np.arange(kinds**2)).astype(float)
        measures[:0] = [
            ("share equal", table, lambda sums: _equal(sums, kinds)),
            ("kappa", table, lambda sums: _kappa(sums, kinds)),
        ]
    return _with_intervals(measures, codes, clusters, draws)


def agreement_of_ratings(
    judges: Sequence[Sequence[float | None]],
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
) -> list[Agreement]:
    """Return "mean difference" (absolute, in the ratings' unit) and "weighted kappa" (quadratic) of
    two judges, and "alpha" of any number of them. For `clusters`, see agreement_of_labels.

    With quadratic weights, kappa needs no table of categories: it is Lin's concordance coefficient
    (Fleiss and Cohen, Educational and Psychological Measurement 33, 1973), 1 - mean (a - b)^2 over
    its mean for independent a and b.
    """
    _same_length(judges)
    values = np.array([[np.nan if v is None else v for v in judge] for judge in judges], float)
    # Centred, because the sums of squares of large numbers lose their last digits.
    values -= np.nanmean(values) if not np.isnan(values).all() else 0
    measures = [("alpha", *_interval_alpha(values))]
    if len(judges) == 2:
        both = ~np.isnan(values).any(0)
        a, b = np.where(both, values, 0)
        terms = np.column_stack([both, np.abs(a - b), (a - b) ** 2, a, b, a**2 + b**2])
        measures[:0] = [
            ("mean difference", terms, lambda sums: _ratio(sums[1], sums[0])),
            ("weighted kappa", terms, _quadratic_kappa),
        ]
    return _with_intervals(measures, values, clusters, draws)


Measure = tuple[str, Array, Callable[[Array], Array]]
"""Name; terms (answers, k) that each answer adds; the value of sums (k, draws) of terms."""


def _with_intervals(
    measures: Sequence[Measure], values: Array, clusters: Sequence[Hashable] | None, draws: int
) -> list[Agreement]:
    """`values` (judges, answers) says which answers have two verdicts: only those are drawn."""
    answers = values.shape[1]
    if clusters is not None and len(clusters) != answers:
        raise BadInput(f"there are {answers} answers, but {len(clusters)} clusters")
    names = range(answers) if clusters is None else clusters
    pairable = (~np.isnan(values)).sum(0) >= 2
    unit, kept = pd.factorize(pd.Series(list(names), dtype=object)[pairable])
    found = []
    for name, terms, value in measures:
        sums = np.zeros((len(kept), terms.shape[1]))
        np.add.at(sums, unit, terms[pairable])
        whole = float(value(sums.sum(0)[:, None])[0])
        low, high = _percentiles(sums, value, draws)
        if np.isnan(whole):
            low = high = float("nan")
        found.append(Agreement(name, whole, low, high, int(pairable.sum()), len(kept)))
    return found


def _percentiles(sums: Array, value: Callable[[Array], Array], draws: int) -> tuple[float, float]:
    units = len(sums)
    if units < 2 or draws < 1:
        return float("nan"), float("nan")
    random = np.random.default_rng(0)
    drawn = []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        weights = random.multinomial(units, np.full(units, 1 / units), size)
        drawn.append(value((weights @ sums).T))
    values = np.concatenate(drawn)
    if np.isnan(values).mean() > _MOST_UNDEFINED:
        return float("nan"), float("nan")
    # Expanded for few units: on their own, percentiles are as narrow as a z interval with n in
    # place of n - 1 (Hesterberg, The American Statistician 69, 2015).
    tail = 100 * scipy.stats.norm.cdf(-math.sqrt(units / (units - 1)) * t_quantile(units - 1))
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _codes(judges: Sequence[Labels]) -> Array:
    """Number the labels: (judges, answers), NaN where there is none."""
    _same_length(judges)
    labels = sorted({str(label) for judge in judges for label in judge if label is not None})
    number = {label: float(at) for at, label in enumerate(labels)}
    rows = [[np.nan if v is None else number[str(v)] for v in judge] for judge in judges]
    return np.array(rows, float)


def _same_length(judges: Sequence[Sequence[object]]) -> None:
    lengths = [len(judge) for judge in judges]
    if len(judges) < 2 or len(set(lengths)) > 1:
        raise BadInput(
            f"agreement needs at least two judges of the same answers, and got {lengths} verdicts"
        )


def _ratio(above: Array, below: Array) -> Array:
    """Divide; NaN where the denominator is zero."""
    safe = np.where(below > 0, below, 1)
    return np.where(below > 0, above / safe, np.nan)


def _equal(sums: Array, kinds: int) -> Array:
    table = sums.reshape(kinds, kinds, -1)
    return _ratio(np.trace(table), table.sum((0, 1)))


def _kappa(sums: Array, kinds: int) -> Array:
    table = sums.reshape(kinds, kinds, -1)
    total = table.sum((0, 1))
    by_chance = (table.sum(0) * table.sum(1)).sum(0)
    return _ratio(total * np.trace(table) - by_chance, total**2 - by_chance)


def _quadratic_kappa(sums: Array) -> Array:
    n, _, apart, a, b, squares = sums
    return 1 - _ratio(n * apart, n * squares - 2 * a * b)


def _nominal_alpha(codes: Array, kinds: int) -> tuple[Array, Callable[[Array], Array]]:
    """Terms: values, disagreement, and how often each label occurs."""
    counts = (codes[:, :, None] == np.arange(kinds)).sum(0).astype(float)
    n = counts.sum(1)
    apart = (n**2 - (counts**2).sum(1)) / np.maximum(n - 1, 1)

    def value(sums: Array) -> Array:
        total, observed, labels = sums[0], sums[1], sums[2:]
        return 1 - _ratio((total - 1) * observed, total**2 - (labels**2).sum(0))

    return np.column_stack([n, apart, counts]), value


def _interval_alpha(values: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Terms: values, disagreement, sum of values, sum of squares."""
    n = (~np.isnan(values)).sum(0)
    total, squares = np.nansum(values, 0), np.nansum(values**2, 0)
    apart = 2 * (n * squares - total**2) / np.maximum(n - 1, 1)

    def value(sums: Array) -> Array:
        count, observed, whole, square = sums
        return 1 - _ratio((count - 1) * observed, 2 * (count * square - whole**2))

    return np.column_stack([n, apart, total, squares]), value
