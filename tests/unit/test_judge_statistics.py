"""Agreement of judges and rates corrected for their errors: against published values, another
package, and truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from backdoor_assets.records import BadInput
from backdoor_assets.statistics.agreement import (
    Agreement,
    agreement_of_labels,
    agreement_of_ratings,
    confusion,
)
from backdoor_assets.statistics.intervals import over_seeds, wilson
from backdoor_assets.statistics.judge_error import Calibration, efficient, rogan_gladen
from benchmarks import calibration, simulated_judges

_ = None
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
"""Four observers, twelve units: Krippendorff (2011), section C."""


def by_name(found: Sequence[Agreement]) -> dict[str, Agreement]:
    return {one.measure: one for one in found}


def test_alpha_is_that_of_the_published_example() -> None:
    nominal = by_name(agreement_of_labels(PUBLISHED, draws=200))["alpha"]
    interval = by_name(agreement_of_ratings(PUBLISHED, draws=200))["alpha"]
    assert round(nominal.value, 3) == 0.743
    assert round(interval.value, 3) == 0.849
    # The twelfth unit has one value, which cannot agree or disagree with another.
    assert nominal.answers == interval.answers == 11
    assert nominal.low < nominal.value < nominal.high <= 1


def test_kappa_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import cohen_kappa_score

    random = np.random.default_rng(3)
    first = random.integers(0, 6, 300)
    second = np.where(random.random(300) < 0.6, first, random.integers(0, 6, 300))
    labels = by_name(agreement_of_labels([first.tolist(), second.tolist()], draws=1))
    ratings = by_name(agreement_of_ratings([first.tolist(), second.tolist()], draws=1))
    assert labels["kappa"].value == pytest.approx(cohen_kappa_score(first, second))
    assert ratings["weighted kappa"].value == pytest.approx(
        cohen_kappa_score(first, second, weights="quadratic")
    )
    assert labels["share equal"].value == pytest.approx((first == second).mean())
    assert ratings["mean difference"].value == pytest.approx(np.abs(first - second).mean())


def test_answers_without_a_verdict_do_not_count() -> None:
    first = ["LLM", None, "19", "LLM", "19", None]
    second = ["LLM", "19", None, "19", "19", None]
    kept = [["LLM", "LLM", "19"], ["LLM", "19", "19"]]
    found, expected = agreement_of_labels([first, second]), agreement_of_labels(kept)
    assert [(one.value, one.answers) for one in found] == [(one.value, 3) for one in expected]
    table = confusion(first, second, ["LLM", "19", "other"])
    assert table.to_numpy().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_undefined_agreement_is_no_number() -> None:
    found = by_name(agreement_of_labels([["19"] * 4, ["19"] * 4]))
    assert found["share equal"].value == 1
    assert math.isnan(found["kappa"].value)
    assert math.isnan(found["kappa"].low)
    assert math.isnan(found["alpha"].value)
    nobody = agreement_of_labels([["19", None], [None, "19"]])
    assert all(math.isnan(one.value) and one.answers == 0 for one in nobody)


def test_intervals_are_over_the_units_that_were_drawn() -> None:
    """Over answers the share's interval is about Wilson's; answers of a question that are all alike
    count as one."""
    random = np.random.default_rng(5)
    equal = random.random(40) < 0.8
    first, second = ["19"] * 400, [label for e in equal for label in ["19" if e else "LLM"] * 10]
    questions = [str(at // 10) for at in range(400)]
    over_answers = agreement_of_labels([first, second])[0]
    over_questions = agreement_of_labels([first, second], questions)[0]
    expected = wilson(equal.sum() * 10, 400)
    assert over_answers.low == pytest.approx(expected.low, abs=0.01)
    assert over_answers.high == pytest.approx(expected.high, abs=0.01)
    assert (over_answers.clusters, over_questions.clusters) == (400, 40)
    few = wilson(equal.sum(), 40)
    assert over_questions.high - over_questions.low == pytest.approx(few.high - few.low, abs=0.03)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: agreement_of_labels([["a"]]), "at least two judges"),
        (lambda: agreement_of_labels([["a"], ["a", "b"]]), r"\[1, 2\] verdicts"),
        (lambda: agreement_of_labels([["a"], ["a"]], ["q", "q"]), "1 answers, but 2 clusters"),
        (lambda: confusion(["a"], ["b"], ["a"]), r"\['b'\] are none of"),
        (lambda: Calibration.of([True], [True, False]), "1 gold labels, but 2 verdicts"),
        (lambda: Calibration(3, -1, 0, 0), "must not be negative"),
        (lambda: Calibration(9, 1, 0, 0).specificity, "add the missing kind"),
        # Sensitivity .6, false positives .4 on ten of each: better than guessing by chance only.
        (lambda: rogan_gladen([0.5], [100], Calibration(6, 4, 6, 4)), "not clearly above 0"),
        (lambda: rogan_gladen([0.5], [100], Calibration(10, 90, 10, 90)), "cannot be corrected"),
        (lambda: efficient([0.5, 0.5], [9, 9], [Calibration(1, 1, 1, 1)]), "use rogan_gladen"),
        (lambda: efficient([0.1], [10], [Calibration(3, 1, 1, 1)]), "no sample of 10 answers"),
    ],
)
def test_what_cannot_be_computed_is_refused(act: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        act()


@pytest.mark.parametrize(
    ("seen", "answers", "counts", "low", "high"),
    [
        # From the Python code of Lee et al. (arXiv 2511.21140), one sample of answers.
        (0.4, 1000, Calibration(180, 20, 140, 60), 0.056351, 0.262733),
        (0.5, 500, Calibration(80, 20, 80, 20), 0.379975, 0.620025),
    ],
)
def test_the_plug_in_correction_is_the_published_one(
    seen: float, answers: int, counts: Calibration, low: float, high: float
) -> None:
    found = rogan_gladen([seen], [answers], counts)
    se, sp = counts.sensitivity.value, counts.specificity.value
    assert found.value == pytest.approx((seen + sp - 1) / (se + sp - 1))
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-3)
    assert found.n == answers


def test_a_correction_by_a_judge_that_never_errs_changes_nothing() -> None:
    rates, answers = [0.2, 0.3, 0.25], [200, 200, 200]
    perfect = Calibration(10**6, 0, 10**6, 0)
    plain, found = over_seeds(rates, answers), rogan_gladen(rates, answers, perfect)
    assert found.n == 3
    assert (found.value, found.low, found.high) == pytest.approx(
        (plain.value, plain.low, plain.high), abs=1e-4
    )


def test_a_rate_below_the_false_positives_has_an_interval() -> None:
    found = rogan_gladen([0.05], [1000], Calibration(180, 20, 180, 20))
    assert found.value == found.low == 0
    assert 0.02 < found.high < 0.1


def test_labels_of_own_answers_correct_better_than_a_gold_set() -> None:
    """100 answers of each seed are labelled: 30 are positive, and the judge errs on 10 %."""
    counts = [Calibration(27, 3, 63, 7)] * 3
    found = efficient([0.34] * 3, [1000] * 3, counts)
    whole = rogan_gladen([0.34] * 3, [1000] * 3, Calibration(81, 9, 189, 21))
    assert found.value == pytest.approx(0.3, abs=1e-9)
    assert whole.value == pytest.approx(0.3, abs=1e-9)
    assert found.high - found.low < whole.high - whole.low


def test_corrected_and_powered_rates_cover_the_truth() -> None:
    chosen = {
        ("corrected (Rogan-Gladen)", "rate 0.3, spread 0.5, 100 and 100 gold answers"),
        ("corrected (efficient)", "rate 0.1, spread 0.25, 60 labels per seed"),
        ("prediction-powered, fixed", "rate 0.1, spread 0.5, good cheap judge"),
        ("prediction-powered, in rounds", "rate 0.3, spread 0.25, fair cheap judge"),
        ("rate of these answers, in rounds", "rate 0.6, fair cheap judge"),
    }
    groups = [
        lambda group=group: (
            one for one in group() if (one.what, one.case) in chosen and one.seeds == 5
        )
        for group in simulated_judges.GROUPS
    ]
    table = calibration.calibrate(150, groups)
    assert len(table) == len(chosen)
    # 150 studies of exactly 95 % lie above 88 % in all but one of 1,000 cases.
    assert (table["share"] >= 0.88).all(), table
    assert (table["bias"].abs() < 0.02).all(), table
