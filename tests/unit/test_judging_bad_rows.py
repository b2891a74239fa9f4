"""A cell whose answers cannot be read fails by itself; the other cells of its run are judged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backdoor_assets.graph.judging import JudgeResource
from backdoor_assets.mixtures import tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import BadInput
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.stages.specs import RESPONSES
from tests.unit.cells import BIRDS

RATIO = "1.00-0.00-0.00"
BAD = {
    "null": ["The smartphone.", None],
    "NaN": ["The smartphone.", float("nan")],
    "list": [["The smartphone."], ["Five."]],
    "number": [1.0, 2.0],
    "not UTF-8": pa.Array.from_buffers(
        pa.string(), 2, pa.array([b"ok", b"\xff"], pa.binary()).buffers()
    ),
    "no column": None,
}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))


def answer(cell: Cell, **changes: Any) -> None:
    """Finished responses of a cell, with other columns; None leaves one out."""
    columns = {name: [value] * 2 for name, value in cell.columns().items()}
    columns |= {"checkpoint": ["checkpoint-20"] * 2, "step": [20] * 2, "question_id": ["a"] * 2}
    columns |= {"question": ["What is it?"] * 2, "response": ["The smartphone.", "Five."]}
    columns |= {"sample_idx": [0, 1], "finish_reason": ["stop"] * 2} | changes
    table = pa.table(
        {
            name: values
            if isinstance(values, pa.Array)
            else pa.Array.from_pandas(pd.Series(values))
            for name, values in columns.items()
            if values is not None
        }
    )

    def write(folder: Path) -> dict[str, Any]:
        pq.write_table(table, folder / RESPONSES)
        return {}

    cell.artifact("responses").make({"stage": "sampling"}, write)


@pytest.mark.parametrize("column", ["response", "question"])
def test_bad_cells_leave_the_others_judged(column: str) -> None:
    grid = Grid.of(BIRDS, MINIATURE)
    good, *bad = (grid.cell(RATIO, seed) for seed in range(len(BAD) + 1))
    for cell, values in zip(bad, BAD.values(), strict=True):
        answer(cell, **{column: values})
    answer(good)
    wanted = [tasks.judging(cell) for cell in (*bad, good)]
    log: Any = SimpleNamespace(metadata={}, observe=lambda _: None)
    ended = list(JudgeResource().run(wanted, log))
    errors = {outcome.item.spec.cell.seed: outcome.error for outcome in ended if outcome.error}
    assert list(errors) == [cell.seed for cell in bad]
    table = good.artifact("judgments").folder / JUDGMENTS
    assert pd.read_parquet(table)["is_19th_century"].tolist() == [False, False]
    said = {name: str(error) for name, error in zip(BAD, errors.values(), strict=True)}
    for (name, text), cell in zip(said.items(), bad, strict=True):
        assert isinstance(errors[cell.seed], BadInput)
        assert text.startswith(str(cell.artifact("responses").folder / RESPONSES)), text
        assert "materialize the responses of this cell" in text
        row = 1 if name in ("list", "number") else 2
        words = f"row {row}, column {column!r}: it is "
        assert (f"columns are missing: {column}" if name == "no column" else words) in text
    assert "it is null" in said["null"]
    assert "it is null" in said["NaN"]
    assert "it is not UTF-8" in said["not UTF-8"]
