"""A small version of the calibration: intervals cover the truth about as often as they say."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import calibration, simulated_studies
from benchmarks.simulated_studies import COVERAGE, Case, Group


def _only(group: Group, *cases: str) -> Iterator[Case]:
    return (case for case in group() if case.case in cases)


def test_intervals_cover_and_rules_raise_few_false_alarms() -> None:
    groups: list[Group] = [
        lambda: _only(
            simulated_studies.rate_cases, "rate 0.3, spread 0.5", "rate 0.1, spread 0.25"
        ),
        lambda: _only(simulated_studies.contrast_cases, "0.05 to 0.15, spread 0.25"),
        lambda: _only(
            simulated_studies.emergence_cases, "no change, rate 0.1", "at step 30, spread 0.3"
        ),
    ]
    table = calibration.calibrate(150, groups)
    assert table["what"].nunique() == 5
    for row in table.itertuples():
        if row.kind == COVERAGE:
            # 150 studies of exactly 95 % lie between 89 and 99 % in all but one of 1,000 cases.
            assert row.share >= 0.88, row
        else:
            assert row.share <= 0.11, row


def test_a_judge_that_errs_is_seen() -> None:
    """No interval over seeds knows of a judge's errors: more seeds, surer of a wrong rate"""
    words = "rate 0.1, spread 0.25, judge misses 10 %, 10 % false"
    table = calibration.calibrate(100, [lambda: _only(simulated_studies.rate_cases, words)])
    found = table.set_index("seeds")
    # .1 x .9 + .9 x .1 = .18
    assert (abs(found["bias"] - 0.08) < 0.01).all()
    assert found.loc[10, "share"] < 0.05 < found.loc[3, "share"]


def test_the_table_in_the_repository_is_of_this_code() -> None:
    import pandas as pd

    table = pd.read_csv(calibration.RESULTS)
    planned = [(case.what, case.case, case.seeds) for g in calibration.GROUPS for case in g()]
    found = [tuple(row) for row in table[["what", "case", "seeds"]].to_numpy()]
    assert found == planned
    assert (table["studies"] + table["without_estimate"] >= 250).all()
