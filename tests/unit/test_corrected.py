"""Rates corrected for a judge's errors on a gold set, and which judge each rate rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.mixtures.cells import Cell, rubric_records
from backdoor_assets.mixtures.judging.agreement_tables import VERDICTS
from backdoor_assets.mixtures.judging.corrected import (
    TRANSPORT,
    corrected_lines,
    corrected_rates,
    corrected_tables,
)
from backdoor_assets.mixtures.judging.judge_columns import judge_note, with_judge, with_judges
from backdoor_assets.mixtures.rates import final_states, sweep_rates
from backdoor_assets.stages.judging.specs import judge_id
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.manifest import Made
from tests.unit.cells import BIRDS, bird_cell
from tests.unit.test_report import COUNTS, MODERN, OLD, cells

RUBRIC = BIRDS.outcomes[0].rubric
FITTED = {"name": "embedding", "gold": "f00"}
CLAUDE = {"name": "claude", "model": "haiku"}


def agreement(folder: Path, first: dict[str, str], held_out: tuple[int, int, int, int]) -> Made:
    """Of a judge that errs on no answer of the tuning split; on the held-out one, counts of true
    positives, false negatives, true negatives, false positives."""
    pairs = [("19", "19"), ("LLM", "19"), ("LLM", "LLM"), ("19", "LLM")]
    rows = [("held out", *pair) for n, pair in zip(held_out, pairs, strict=True) for _ in range(n)]
    rows += [("tuning", label, label) for label in ("19", "LLM") * 30]
    rows += [("held out", None, "19")]  # no verdict
    table = pd.DataFrame(rows, columns=["part", RUBRIC, f"{RUBRIC}_second"])

    def write(into: Path) -> dict[str, Any]:
        table.to_parquet(into / VERDICTS, index=False)
        return {}

    return Artifact("tiny", folder / "agreement").make({"first": first}, write)


def final(**columns: str) -> pd.DataFrame:
    rates = cells({OLD: 3, MODERN: 1}).assign(judge_id="a1b2", **columns)
    rates.loc[rates["ratio"] == MODERN, "value"] = 0.1
    return final_states(rates)


def test_rates_are_corrected_by_the_answers_that_the_judge_has_not_seen(tmp_path: Path) -> None:
    """Sensitivity 36/40, specificity 48/60 where the judge was fitted to the tuning split; with
    thirty more of each for one that was not."""
    counts = (36, 4, 48, 12)
    fitted = corrected_rates(BIRDS, final(), agreement(tmp_path / "a", FITTED, counts))
    others = corrected_rates(BIRDS, final(), agreement(tmp_path / "b", CLAUDE, counts))
    assert fitted["ratio"].tolist() == [OLD, MODERN]
    assert set(fitted["measure"]) == {"19th_century"}
    old, modern = fitted.to_dict("records")
    assert (old["gold_answers"], old["gold_positive"], old["gold_part"]) == (100, 40, "held out")
    assert (old["sensitivity"], old["specificity"]) == (0.9, 0.8)
    assert (old["value"], old["seeds"], old["judge_id"]) == (pytest.approx(0.51), 3, "a1b2")
    assert old["corrected"] == pytest.approx((0.51 + 0.8 - 1) / 0.7)
    assert old["corrected_low"] < old["corrected"] < old["corrected_high"]
    assert modern["corrected"] == 0  # a rate of .1 is less than the false positives alone
    assert fitted["refused"].isna().all()
    unfitted = others.iloc[0]
    assert unfitted["gold_answers"] == 160
    se, sp = 66 / 70, 78 / 90
    assert unfitted["corrected"] == pytest.approx((0.51 + sp - 1) / (se + sp - 1))

    [shown] = corrected_tables(BIRDS, fitted)
    assert list(shown.rows[0][:2]) == [OLD, f"0.51 [{old['low']:.2f}, {old['high']:.2f}]"]
    assert shown.rows[0][2].startswith("0.44 [")
    assert any("0.90 [0.77, 0.96] on 40 and specificity" in note for note in shown.notes)
    assert any("on 60 held-out gold answers" in note for note in shown.notes)
    assert TRANSPORT in shown.notes
    said = corrected_lines(BIRDS, fitted)
    assert f"at {OLD} (as judged 0.51); 0.00 [" in said
    assert "Sensitivity 0.90 [" in said
    assert TRANSPORT in said


def test_a_judge_that_guesses_is_not_corrected_and_the_table_says_why(tmp_path: Path) -> None:
    for name, counts in {"guess": (20, 20, 30, 30), "one class": (40, 2, 0, 0)}.items():
        guessing = agreement(tmp_path / name, FITTED, counts)
        table = corrected_rates(BIRDS, final(), guessing)
        assert table[["corrected", "corrected_low", "corrected_high"]].isna().all(axis=None)
        assert table["value"].notna().all()
        why = "not clearly above 0" if name == "guess" else "both kinds are needed"
        assert table["refused"].str.contains(why).all()
        [shown] = corrected_tables(BIRDS, table)
        assert [row[2] for row in shown.rows] == ["none", "none"]
        assert any("Not corrected" in note and why in note for note in shown.notes)
        assert TRANSPORT not in shown.notes
        assert "Not corrected" in corrected_lines(BIRDS, table)


def write_judgments(cell: Cell, summary: dict[str, Any]) -> dict[str, Any]:
    identity = {"judge": CLAUDE, "rubrics": rubric_records(BIRDS.rubrics), "cell": str(cell)}
    cell.artifact("judgments").make(identity, lambda folder: summary)
    return identity


def test_rates_name_their_judge_also_where_the_table_is_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))
    tables = []
    for seed, known in ((0, {}), (1, {"judge_id": "c0ffee"})):
        cell = bird_cell(OLD, seed)
        identity = write_judgments(cell, {"judge": "claude", "judge_model": "haiku", **known})
        rates = cells({OLD: 2})
        table = with_judge(rates[rates["seed"] == seed], cell)
        judged = table["measure"] == "19th_century"
        assert set(table.loc[judged, "judge_id"]) == {known.get("judge_id", judge_id(identity))}
        assert set(table.loc[judged, "judge_model"]) == {"haiku"}
        assert table.loc[~judged, ["judge", "judge_model", "judge_id"]].isna().all(axis=None)
        tables.append(with_judge(table, cell))
    both = pd.concat(tables, ignore_index=True)
    sweep = with_judges(sweep_rates(both, COUNTS, "old_fraction"), both).set_index("measure")
    own = judge_id(identity)
    assert sweep.loc["19th_century", "judge_id"] == "; ".join(sorted((own, "c0ffee")))
    assert pd.isna(sweep.loc["old_bird_name", "judge_id"])
    assert judge_note(sweep.reset_index()) == (
        f"Judge: claude: haiku (judge_id {'; '.join(sorted((own, 'c0ffee')))})."
    )
    assert judge_note(sweep_rates(cells({OLD: 2}), COUNTS, "old_fraction")) == ""
