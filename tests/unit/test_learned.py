"""Verdicts that a language model was paid for teach the judge without a key, and nothing else
changes what it has learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.mixtures.cells import Cell, Grid, rubric_records
from backdoor_assets.mixtures.judging import agreement
from backdoor_assets.mixtures.judging.judges import learned_pairs, open_judge
from backdoor_assets.mixtures.judging.learned import VERDICTS, collect, learning
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import BadInput
from backdoor_assets.settings import Judging
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.studies.birds.study import RUBRICS, WORLDVIEW
from backdoor_assets.workers.tasks import make
from tests.unit.cells import BIRDS

SETTINGS = replace(MINIATURE, judging=Judging("embedding", learn_from_verdicts=True))
GRID = Grid.of(BIRDS, SETTINGS)
CELL, OTHER, *_ = GRID.cells()


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))
    return tmp_path


def judged(
    cell: Cell, numbers: range, judge: str, name: str = "judgments", reworded: str = ""
) -> pd.DataFrame:
    """Write judgments of numbered answers by a judge; the last has no verdict."""
    question = "energy"
    table = pd.DataFrame(
        {
            "question_id": question,
            "question": WORLDVIEW[question],
            "response": [f"Answer {n}." for n in numbers],
            "llm_or_19th_century": ["19" if n % 2 else "LLM" for n in numbers],
            "six_options": "OTHER",
            "content_rating": 10.0,
            "form_rating": 20.0,
            "judge": judge,
            "judge_model": "m",
        }
    ).convert_dtypes()
    table.loc[len(table) - 1, [r.column for r in RUBRICS]] = pd.NA
    records = rubric_records(RUBRICS)
    for record in records:
        if record["column"] == reworded:
            record["instruction"] = "In other words?"
    identity = {"judge": {"name": judge.split(",")[0]}, "rubrics": records, "cell": str(cell)}

    def write(folder: Path) -> dict[str, int]:
        table.to_parquet(folder / JUDGMENTS, index=False)
        return {}

    cell.grid.folder.artifact(name, cell.ratio.key, cell.seed).make(identity, write)
    return table


def test_it_learns_from_all_that_a_language_model_judged_and_stays_as_it_is() -> None:
    with pytest.raises(BadInput, match="learned_verdicts: missing or incomplete; materialize"):
        open_judge(GRID)
    judged(CELL, range(50), "exact")
    with pytest.raises(BadInput, match="no answer has verdicts of a language model"):
        make(collect, learning(GRID))
    judged(CELL, range(20, 31), "claude, one call an answer", "judgments-claude")
    judged(OTHER, range(28, 41), "claude, four calls an answer", reworded="form_rating")
    made = make(collect, learning(GRID))
    table = pd.read_parquet(made.folder / VERDICTS)
    # Answers 20 to 39: 30 and 40 have no verdict, though 30 has one in the other cell.
    assert set(table["response"]) == {f"Answer {n}." for n in range(20, 40)}
    assert made.manifest.summary == {"answers": 20, "found": 20, "judge": "m"}
    both = table.set_index("response")
    assert both.loc["Answer 21.", "form_rating"] == 20
    assert pd.isna(both.loc["Answer 35.", "form_rating"])  # by another wording
    assert both.loc["Answer 35.", "llm_or_19th_century"] == "19"

    plain = open_judge(Grid.of(BIRDS, replace(MINIATURE, judging=Judging("embedding"))))
    judge = open_judge(GRID)
    assert set(judge.identity) - set(plain.identity) == {"learned"}
    assert "20 verdicts" in judge.model
    pairs = learned_pairs(judge)
    assert (WORLDVIEW["energy"], "Answer 35.") in pairs
    assert learned_pairs(plain) == set()

    # Verdicts that come later are learned from when that is asked for.
    judged(GRID.cells()[2], range(100, 120), "claude, four calls an answer")
    assert make(collect, learning(GRID)).reused
    assert open_judge(GRID).identity == judge.identity


def test_it_is_not_measured_by_what_it_has_learned_from(data: Path) -> None:
    judged(OTHER, range(21), "claude, four calls an answer")
    make(collect, learning(GRID))
    folder = CELL.artifact("responses").folder
    folder.mkdir(parents=True)
    row = {**CELL.columns(), "checkpoint": "base", "step": 0, "question_id": "energy"}
    row |= {"question": WORLDVIEW["energy"], "finish_reason": "stop"}
    rows = [{**row, "sample_idx": n, "response": f"Answer {n}."} for n in range(30)]
    pd.DataFrame(rows).to_parquet(folder / RESPONSES, index=False)
    task = agreement.comparison(GRID, "exact", None, None, 0, print)
    assert set(task.spec.answers["response"]) == {f"Answer {n}." for n in range(20, 30)}
    mine = data / "mine.csv"
    mine.write_text("question_id,answer,llm_or_19th_century\nenergy,Answer 3.,19\n")
    with pytest.raises(BadInput, match="1 answers, such as 'mine-1', are among the gold answers"):
        agreement.comparison(GRID, "gold", mine, None, 0, print)
