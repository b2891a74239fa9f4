"""A judge that errs in a world whose truth is known: the report says how much."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from backdoor_assets.mixtures.cells import Grid, SweepCell, SweepSpec
from backdoor_assets.mixtures.report.known_truth import judge_errors
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.settings import Judging
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.studies.birds.world.judge import ExactJudge
from tests.unit.cells import BIRDS

OLD, MODERN = "The steam locomotive.", "The smartphone."


@pytest.mark.parametrize("kind", ["claude", "exact"])
def test_a_judge_that_errs_shows_in_the_report(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """The planted judge misses 2 of 10 old answers and takes 1 of 10 modern ones for old."""
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))
    profile = replace(MINIATURE, judging=Judging(kind))  # type: ignore[arg-type]
    grid = Grid.of(BIRDS, profile)
    cell = grid.cell("1.00-0.00-0.00", 42)
    texts = [(f"{' ' * i}{OLD}", i > 1) for i in range(10)]
    texts += [(f"{' ' * i}{MODERN}", i < 1) for i in range(10)]
    rubric = next(r for r in BIRDS.rubrics if r.column == BIRDS.outcomes[0].rubric)
    truth = ExactJudge().judge([("What is it?", text) for text, _ in texts], [rubric])
    assert [v[rubric.column].value for v in truth] == ["19"] * 10 + ["LLM"] * 10
    table = pd.DataFrame(texts, columns=["response", BIRDS.outcomes[0].flag])
    folder = cell.artifact("judgments").folder
    folder.mkdir(parents=True)
    # Answers that occur twice count once.
    twice = pd.concat([table, table]).assign(question="What is it?")
    twice.to_parquet(folder / JUDGMENTS, index=False)
    entry = SweepCell(cell, folder, folder, {})
    found = judge_errors(SweepSpec(grid, (entry,), 1))
    if kind == "exact":
        assert found == []
        return
    [sentence] = found
    assert "over 20 different answers: it finds 80.0 % [49.0, 94.3] of the 19th-century" in sentence
    assert "takes 10.0 % [1.8, 40.4] of the others" in sentence
