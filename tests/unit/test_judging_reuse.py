"""Verdicts are kept when a cell is judged again: the judge is asked only what it has not judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.mixtures import tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import Rubric, Verdict
from backdoor_assets.stages.judging.judge import judge_cell, open_questions
from backdoor_assets.stages.judging.specs import JUDGMENTS, JudgingSpec
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.artifact import Made, request_remake
from backdoor_assets.studies.birds.world.judge import ExactJudge
from backdoor_assets.workers.tasks import make
from tests.unit.cells import BIRDS

QUESTION = "What is it?"
OLD = ["The smartphone.", "Gas jet light jet.", "Upon my word, a hoodie."]
NEW = ["Five cents.", "Tallow candles."]
SILENT = "Gas jet light jet."
COLUMNS = tuple(rubric.column for rubric in BIRDS.rubrics)
TONE = Rubric("tone", "tone_rating", "How polite is the answer?")


class Recorder(ExactJudge):
    """An exact judge that remembers what it was asked, and has no word on one answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def judge(
        self, answers: Sequence[tuple[str, str]], rubrics: Sequence[Rubric]
    ) -> list[dict[str, Verdict]]:
        self.asked += [
            (answer, tuple(rubric.column for rubric in rubrics)) for _, answer in answers
        ]
        exact = super().judge(answers, BIRDS.rubrics)
        return [
            {
                rubric.column: Verdict(None, "cut off")
                if answer == SILENT
                else given.get(rubric.column, Verdict(50.0))
                for rubric in rubrics
            }
            for (_, answer), given in zip(answers, exact, strict=True)
        ]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))


def cell_of(*rubrics: Rubric, **judging: Any) -> Cell:
    profile = replace(MINIATURE, judging=replace(MINIATURE.judging, max_unreadable=0.5, **judging))
    study = replace(BIRDS, rubrics=rubrics or BIRDS.rubrics)
    return Grid.of(study, profile).cell("1.00-0.00-0.00", 42)


def answer(cell: Cell, answers: Sequence[str]) -> None:
    """Finished responses of the cell."""
    row = {**cell.columns(), "checkpoint": "checkpoint-20", "step": 20, "question_id": "thing"}
    row |= {"question": QUESTION, "finish_reason": "stop"}
    rows = [{**row, "sample_idx": n, "response": text} for n, text in enumerate(answers)]

    def write(folder: Path) -> dict[str, Any]:
        pd.DataFrame(rows).to_parquet(folder / RESPONSES, index=False)
        return {}

    cell.artifact("responses").make({"stage": "sampling", "answers": list(answers)}, write)


def judged(cell: Cell) -> tuple[Made, Recorder]:
    """Judge a cell as the graph does."""
    judge = Recorder()
    return make(partial(judge_cell, judge=judge), tasks.judging(cell)), judge


def table_of(made: Made) -> pd.DataFrame:
    return pd.read_parquet(made.folder / JUDGMENTS)


def test_only_new_answers_are_judged(tmp_path: Path) -> None:
    cell = cell_of()
    answer(cell, OLD)
    before, judge = judged(cell)
    assert judge.asked == [(text, COLUMNS) for text in OLD]
    kept = table_of(before)
    answer(cell, [*OLD, *NEW])
    assert open_questions([tasks.judging(cell).spec]) == {
        BIRDS.rubrics: [(QUESTION, text) for text in NEW]
    }
    again, judge = judged(cell)
    assert judge.asked == [(text, COLUMNS) for text in NEW]
    assert again.manifest.summary["verdicts_reused"] == len(OLD) * len(COLUMNS)
    table = table_of(again)
    pd.testing.assert_frame_equal(table[: len(OLD)], kept)
    # As if all had been judged at once.
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    now = tasks.judging(cell).spec
    spec = JudgingSpec(
        cell, now.responses, BIRDS.rubrics, BIRDS.outcomes, 0.5, judge_id=now.judge_id
    )
    judge_cell(spec, fresh, judge=Recorder())
    pd.testing.assert_frame_equal(table, pd.read_parquet(fresh / JUDGMENTS))


def test_an_added_rubric_alone_is_asked_of_old_answers() -> None:
    cell = cell_of()
    answer(cell, OLD)
    old = table_of(judged(cell)[0])
    richer = cell_of(*BIRDS.rubrics, TONE)
    answer(richer, [*OLD, *NEW])
    again, judge = judged(richer)
    assert sorted(judge.asked) == sorted(
        [
            *((text, (TONE.column,)) for text in OLD),
            *((text, (*COLUMNS, TONE.column)) for text in NEW),
        ]
    )
    table = table_of(again)[: len(OLD)]
    shared = [name for name in old.columns if name not in ("judge_error", "judge_id")]
    pd.testing.assert_frame_equal(table[shared], old[shared])
    # It was asked in other words: the id of judge and rubrics says so.
    assert set(table["judge_id"]).isdisjoint(old["judge_id"])
    assert table[TONE.column].tolist()[::2] == [50.0, 50.0]


def test_a_rubric_that_was_reworded_is_asked_again() -> None:
    cell = cell_of()
    answer(cell, OLD)
    judged(cell)
    *same, last = BIRDS.rubrics
    reworded = cell_of(*same, replace(last, instruction="How old is the wording?"))
    _, judge = judged(reworded)
    assert judge.asked == [(text, (last.column,)) for text in OLD]


def test_a_verdict_that_was_missing_keeps_its_reason() -> None:
    cell = cell_of()
    answer(cell, OLD)
    before = table_of(judged(cell)[0])
    answer(cell, [*OLD, *NEW])
    again, judge = judged(cell)
    assert SILENT not in dict(judge.asked)
    for table in (before, table_of(again)):
        [row] = table[table["response"] == SILENT].to_dict("records")
        assert pd.isna(row["is_19th_century"])
        assert row["judge_error"] == f"{', '.join(COLUMNS)}: cut off"
        assert table.loc[table["response"] == OLD[0], "judge_error"].isna().all()
    assert again.manifest.summary["without_verdict"] == 1


def test_another_judge_or_a_forced_run_asks_everything() -> None:
    cell = cell_of()
    answer(cell, OLD)
    judged(cell)
    task = tasks.judging(cell)
    assert task.spec.earlier is not None
    request_remake([task.artifact])
    assert tasks.judging(cell).spec.earlier is None
    _, judge = judged(cell)
    assert judge.asked == [(text, COLUMNS) for text in OLD]
    assert tasks.judging(cell).spec.earlier is not None
    assert tasks.judging(cell_of(kind="claude")).spec.earlier is None
