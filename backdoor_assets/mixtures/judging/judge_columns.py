"""Which judge a rate rests on, as columns of the tables of rates."""

from __future__ import annotations

import pandas as pd

from backdoor_assets.mixtures.cells import Cell
from backdoor_assets.stages.judging.specs import judge_id

JUDGE_COLUMNS = "judge", "judge_model", "judge_id"
"""Null for the probes, which no judge judges."""


def with_judge(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """Return a cell's rates with JUDGE_COLUMNS, from the manifest of its judgments. A table that
    was written before they existed gets the same ones."""
    made = cell.artifact("judgments").manifest() if cell.grid.judged else None
    known: dict[str, str | None] = dict.fromkeys(JUDGE_COLUMNS)
    if made:
        known = {name: made.summary.get(name) for name in JUDGE_COLUMNS}
        if known["judge_id"] is None and {"judge", "rubrics"} <= made.identity.keys():
            known["judge_id"] = judge_id(made.identity)
    judged = table["measure"].isin([outcome.measure for outcome in cell.grid.study.outcomes])
    columns = {
        name: pd.array([value if own else None for own in judged], dtype="string")
        for name, value in known.items()
    }
    return table.assign(**columns)


def with_judges(sweep: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return a sweep's rates with JUDGE_COLUMNS: those of the cells that a rate is over. Where
    cells differ, in the wording of a rubric that no rate is counted from, it has them all."""
    state = ["measure", "ratio", "step"]
    pooled = cells[cells["question_id"] == "all"]
    found = pooled.groupby(state)[list(JUDGE_COLUMNS)].agg(_joined).reset_index()
    found = found.astype(dict.fromkeys(JUDGE_COLUMNS, "string"))
    return sweep.merge(found, on=state, how="left")


def _joined(names: pd.Series) -> str | None:
    return "; ".join(sorted(set(names.dropna()))) or None


def judge_note(sweep: pd.DataFrame) -> str:
    """Say who judged the final rates; "" where no judge did."""
    if "judge_id" not in sweep:
        return ""
    final = sweep[sweep["is_final"] & sweep["judge_id"].notna()]
    judges = final[list(JUDGE_COLUMNS)].drop_duplicates().fillna("").to_numpy().tolist()
    said = "; ".join(f"{': '.join(filter(None, row[:2]))} (judge_id {row[2]})" for row in judges)
    return f"Judge: {said}." if said else ""
