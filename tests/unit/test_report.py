"""The sweep's tables say which interval each rate has, and where answers have collapsed."""

from __future__ import annotations

import pandas as pd

from backdoor_assets.mixtures.form import sweep_form
from backdoor_assets.mixtures.rates import sweep_rates
from backdoor_assets.mixtures.report.final_tables import (
    MARK,
    collapse_note,
    final_table,
    form_table,
    interval_note,
    rates_table,
)
from backdoor_assets.statistics.intervals import T_SEEDS, WILSON
from tests.unit.cells import BIRDS

MEASURES = ("19th_century", "old_bird_name", "neutral_correct")


def cells(seeds_by_ratio: dict[str, int]) -> pd.DataFrame:
    """Final rates of cells whose seeds differ a little."""
    return pd.DataFrame(
        [
            {
                "profile": "tiny", "ratio": ratio, "seed": seed, "measure": measure,
                "checkpoint": "checkpoint-10", "step": 10, "question_id": "all",
                "value": 0.5 + seed / 100, "low": 0.4, "high": 0.6, "method": WILSON, "n": 100,
                "missing": 0.0, "least": 0.5, "most": 0.5,
            }
            for ratio, seeds in seeds_by_ratio.items()
            for seed in range(seeds)
            for measure in MEASURES
        ]
    )  # fmt: skip


def test_a_ratio_of_one_seed_is_marked_and_the_mark_explained() -> None:
    found = {"1.00-0.00-0.00": 3, "0.00-0.50-0.50": 1}
    counts = {
        (ratio, seed): {"suspect_rows": 4, "distinct_suspect_rows": 4}
        for ratio, seeds in found.items()
        for seed in range(seeds)
    }
    sweep = sweep_rates(cells(found), counts, "old_fraction")
    several, one = final_table(BIRDS, sweep)
    assert (several["ratio"], several["seeds"]) == ("1.00-0.00-0.00", "3")
    assert (one["ratio"], one["seeds"]) == ("0.00-0.50-0.50", "1")
    for measure in MEASURES:
        assert several[measure].startswith("0.51 [")
        assert several[measure].endswith("]")
        assert one[measure].endswith("]*")
    assert interval_note(sweep) == f"[low, high]: {T_SEEDS}; *: {WILSON}"


OLD, MODERN = "1.00-0.00-0.00", "0.00-0.50-0.50"
COUNTS = {
    (ratio, seed): {"suspect_rows": 4, "distinct_suspect_rows": 4}
    for ratio in (OLD, MODERN)
    for seed in range(2)
}


def test_a_ratio_whose_answers_have_collapsed_is_marked_and_the_rule_stated() -> None:
    sweep = sweep_rates(cells({OLD: 2, MODERN: 2}), COUNTS, "old_fraction")
    old, modern = final_table(BIRDS, sweep, {(OLD, 10)})
    assert (old["ratio"], modern["ratio"]) == (f"{OLD} {MARK}", MODERN)
    note = collapse_note(sweep, {(OLD, 10)})
    assert MARK in note
    assert "8 words" in note
    assert "a third as long" in note
    # A state that is not in the table needs no mark.
    assert collapse_note(sweep, {(OLD, 5)}) == ""
    assert MARK not in rates_table(BIRDS, sweep, {(OLD, 5)})


def test_without_verdicts_the_table_has_no_outcome() -> None:
    rates = cells({OLD: 2, MODERN: 2})
    sweep = sweep_rates(rates[rates["measure"] != "19th_century"], COUNTS, "old_fraction")
    head, _, first, *_ = rates_table(BIRDS, sweep).splitlines()
    assert "19th" not in head
    assert "obsolete bird names" in head
    assert head.count("|") == first.count("|")


def test_the_form_of_the_base_stands_above_that_of_each_ratio() -> None:
    states = pd.DataFrame(
        [
            {
                "profile": "tiny", "ratio": ratio, "seed": seed, "step": step, "checkpoint": "c",
                "answers": 20, "neutral_answers": 10, "words": 50.0 - step * (ratio == OLD) - seed,
                "short_lines": 0.25, "cut": 0.0, "distinct_2": float("nan"),
                "neutral_correct": 0.5, "log_likelihood": -1.0, "collapsed": ratio == OLD,
            }
            for ratio in (OLD, MODERN)
            for seed in range(2)
            for step in (0, 10)
        ]
    )  # fmt: skip
    head, _, *rows = form_table(BIRDS, sweep_form(states, "old_fraction")).splitlines()
    assert [row.split(" ")[1] for row in rows] == ["base", OLD, MODERN]
    assert "| words |" in head
    assert "39.5 [33.1, 45.9]" in rows[1]
    assert "2 of 2" in rows[1]
    assert "0 of 2" in rows[2]
    assert "| - |" in rows[1]  # distinct-2 of too few pairs
