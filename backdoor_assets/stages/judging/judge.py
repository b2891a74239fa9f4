"""Judge every answer of a cell by the study's rubrics, resumable checkpoint by checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import (
    AnyCell,
    BadInput,
    Judge,
    MeasuredJudge,
    Progress,
    Rubric,
    Verdict,
    no_progress,
)
from backdoor_assets.stages.judging.missing import refuse_missing
from backdoor_assets.stages.judging.specs import JUDGMENTS, JudgingSpec
from backdoor_assets.storage.tables import read_table

ANSWER_COLUMNS = (
    "checkpoint", "step", "question_id", "question", "sample_idx", "response", "finish_reason",
)  # fmt: skip
"""Columns of responses.parquet after those of its cell."""

KEYS = ["step", "question_id", "sample_idx"]
"""Columns that tell the answers of a cell apart."""
NOT_DRAWN = "not drawn: a cheap judge predicts this verdict"
Pair = tuple[str, str]
"""Question and answer."""


def judge_cell(
    spec: JudgingSpec,
    folder: Path,
    progress: Progress = no_progress,
    *,
    judge: Judge,
    part: pd.DataFrame | None = None,
    predicted_by: Judge | None = None,
) -> dict[str, Any]:
    """Write judgments.parquet into `folder`: the columns of responses.parquet plus a column per
    rubric (a label, or a rating from 0 to 100), a boolean one per counted option, judge,
    judge_model, judge_error and judge_id (see `specs.judge_id`). A verdict that could not be had is
    null with the reason.

    With `part` (see `drawing.draw`) the judge is asked about the answers drawn, other verdicts are
    null with NOT_DRAWN, and the columns of the prediction by the judge `predicted_by` follow.

    Verdicts of the same judge on the same answers are taken from `spec.earlier`. Each checkpoint's
    verdicts go to a file of their own as they arrive: none is asked for twice. Raises BadInput for
    an unreadable input, RuntimeError when more than `max_unreadable` of the answers to any question
    at any checkpoint (at any checkpoint, if not `by_question`) have no headline verdict.
    """
    responses, earlier = read_judged(spec), Earlier(spec)
    headline = spec.counted[0].flag
    parts = folder / ".parts"
    if part is not None:
        # Another draw may have been meant: all verdicts of this one are in the judge's store.
        shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(exist_ok=True)
    drawn = pd.Series(True, responses.index) if part is None else part["drawn"]
    steps = sorted(responses["step"].unique())
    for done, step in enumerate(steps, 1):
        path = parts / f"{step:07d}.parquet"
        if not path.exists():
            rows = responses["step"] == step
            table = _judged(responses[rows], drawn[rows].tolist(), judge, spec, earlier)
            table.to_parquet(path.with_suffix(".part"), index=False)
            os.replace(path.with_suffix(".part"), path)
        progress(done / len(steps), f"checkpoint {done}/{len(steps)}")
    table = pd.concat([_part(path) for path in sorted(parts.glob("*.parquet"))], ignore_index=True)
    if len(table) != len(responses):
        raise RuntimeError(f"{spec.cell}: {len(table)} judgments of {len(responses)} responses")
    if part is not None:
        table = table.merge(part.drop(columns="drawn"), on=KEYS, validate="1:1")
    asked = table[table["judge_error"].fillna("") != NOT_DRAWN]
    refuse_missing(spec, asked, headline, parts)
    table["judge_id"] = spec.judge_id
    table.to_parquet(folder / JUDGMENTS, index=False)
    last = table[table["step"] == steps[-1]]
    return {
        "final": {
            counted.measure: [int(last[counted.flag].sum()), int(last[counted.flag].notna().sum())]
            for counted in spec.counted
        },
        "judgments": len(table),
        "verdicts_reused": earlier.used,
        **({} if part is None else {"answers_drawn": len(asked)}),
        "without_verdict": int(asked[headline].isna().sum()),
        **_other_counts(table, spec.rubrics),
        "judge": judge.name,
        "judge_model": judge.model,
        "judge_id": spec.judge_id,
        **({"predicted_by": f"{predicted_by.name}: {predicted_by.model}"} if predicted_by else {}),
        **_agreement(judge, predicted_by),
    }


def _agreement(*judges: Judge | None) -> dict[str, str]:
    """How well judges agree with labelled answers, of those that measure it themselves."""
    found = [judge.agreement for judge in judges if isinstance(judge, MeasuredJudge)]
    if found and not isinstance(judges[0], MeasuredJudge):
        found.append("It only predicts the verdicts that the other judge was not asked for.")
    return {"judge_agreement": " ".join(found)} if found else {}


def _other_counts(table: pd.DataFrame, rubrics: Sequence[Rubric]) -> dict[str, int]:
    """Answers that the judge found unreadable, where a rubric has an option for that."""
    columns = [rubric.column for rubric in rubrics if "OTHER" in rubric.options]
    return {"garbled": int((table[columns[0]] == "OTHER").sum())} if columns else {}


class Earlier:
    """Verdicts of an earlier artifact, by question and answer."""

    def __init__(self, spec: JudgingSpec) -> None:
        self.columns, self.used = set(spec.earlier_columns), 0
        self._rows: dict[Pair, dict[str, Any]] = {}
        if spec.earlier is not None and self.columns:
            table = read_table(
                spec.earlier,
                "materialize the judgments of this cell",
                (*spec.earlier_columns, "judge_error"),
                texts=("question", "response"),
            )
            rows = table.to_dict("records")
            self._rows = {(row["question"], row["response"]): row for row in rows}

    def verdicts(self, pair: Pair, rubric: Rubric) -> Verdict | None:
        """The verdict on an answer by a rubric, if it is known."""
        row = self._rows.get(pair)
        if row is None or rubric.column not in self.columns:
            return None
        value = row[rubric.column]
        if not pd.isna(value):
            return Verdict(value)
        if row["judge_error"] == NOT_DRAWN:
            return None
        return Verdict(None, _reason(str(row["judge_error"]), rubric.column))


def _reason(errors: str, column: str) -> str:
    """Why a column has no verdict, from the text that `_errors` wrote."""
    for part in errors.split("; "):
        columns, _, reason = part.partition(": ")
        if column in columns.split(", "):
            return reason
    return errors


def open_questions(
    specs: Sequence[JudgingSpec],
) -> dict[tuple[Rubric, ...], list[Pair]]:
    """The answers that a judge has to be asked about, by the rubrics that are unknown of them."""
    found: dict[tuple[Rubric, ...], list[Pair]] = {}
    for spec in specs:
        pairs = questions_and_answers(read_judged(spec))
        for rubrics, unknown in by_unknown_rubrics(pairs, spec.rubrics, Earlier(spec)).items():
            found.setdefault(rubrics, []).extend(unknown)
    return found


def by_unknown_rubrics(
    pairs: Sequence[Pair], rubrics: Sequence[Rubric], earlier: Earlier
) -> dict[tuple[Rubric, ...], list[Pair]]:
    """Group answers by the rubrics of which no earlier verdict on them is known."""
    found: dict[tuple[Rubric, ...], list[Pair]] = {}
    for pair in pairs:
        unknown = tuple(r for r in rubrics if earlier.verdicts(pair, r) is None)
        if unknown:
            found.setdefault(unknown, []).append(pair)
    return found


def read_judged(spec: JudgingSpec) -> pd.DataFrame:
    """Return the responses that are to be judged. Raises BadInput as `read_responses` does, and
    where there are none."""
    table = read_responses(spec.responses, spec.cell)
    if spec.kinds is not None:
        table = table[table["kind"].isin(spec.kinds)]
    if spec.steps is not None:
        table = table[table["step"].isin({*spec.steps, table["step"].max()})]
    if table.empty:
        kinds = f" of kind {' or '.join(spec.kinds)}" if spec.kinds else ""
        raise BadInput(f"{spec.responses}: it has no answers{kinds}, so that none can be judged")
    return table


def read_responses(path: Path, cell: AnyCell) -> pd.DataFrame:
    """Return the responses table of a cell. Raises BadInput that names the file, and the row and
    column of a question or an answer that is not text."""
    return read_table(
        path,
        "materialize the responses of this cell",
        (*cell.columns(), *ANSWER_COLUMNS),
        texts=("question", "response"),
        numbers=("step", "sample_idx"),
    )


def questions_and_answers(responses: pd.DataFrame) -> list[Pair]:
    return list(zip(responses["question"], responses["response"], strict=True))


def _part(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        path.unlink()
        raise BadInput(
            f"{path}: this part is truncated or not Parquet ({error}); it was removed: run the "
            "same command again, and only this part is judged again"
        ) from error


def _judged(
    responses: pd.DataFrame,
    drawn: Sequence[bool],
    judge: Judge,
    spec: JudgingSpec,
    earlier: Earlier,
) -> pd.DataFrame:
    pairs = questions_and_answers(responses)
    not_drawn = {r.column: Verdict(None, NOT_DRAWN) for r in spec.rubrics}
    verdicts = [
        {r.column: v for r in spec.rubrics if (v := earlier.verdicts(pair, r)) is not None}
        if asked
        else {}
        for pair, asked in zip(pairs, drawn, strict=True)
    ]
    earlier.used += sum(map(len, verdicts))
    unknown: dict[tuple[Rubric, ...], list[int]] = {}
    for number, known in enumerate(verdicts):
        rubrics = tuple(rubric for rubric in spec.rubrics if rubric.column not in known)
        if not drawn[number]:
            verdicts[number] = not_drawn
        elif rubrics:
            unknown.setdefault(rubrics, []).append(number)
    for rubrics, numbers in unknown.items():
        given = judge.judge([pairs[number] for number in numbers], rubrics)
        if len(given) != len(numbers):
            raise RuntimeError(
                f"judge {judge.name}: {len(given)} verdicts for {len(numbers)} answers"
            )
        for number, new in zip(numbers, given, strict=True):
            verdicts[number] |= new
    table = responses[[*spec.cell.columns(), *ANSWER_COLUMNS]].reset_index(drop=True)
    for rubric in spec.rubrics:
        values = [given[rubric.column].value for given in verdicts]
        table[rubric.column] = pd.array(values, dtype="string" if rubric.options else "Float64")
        for counted in (c for c in spec.counted if c.rubric == rubric.column):
            column = table[rubric.column]
            flags = (column == counted.option).astype("boolean")
            table[counted.flag] = flags.mask(column.isna())
    table["judge"], table["judge_model"] = judge.name, judge.model
    errors = [_errors(v) if asked else NOT_DRAWN for v, asked in zip(verdicts, drawn, strict=True)]
    table["judge_error"] = pd.array(errors, dtype="string")
    return table


def _errors(given: dict[str, Verdict]) -> str | None:
    """Why verdicts are missing: the columns of each reason."""
    columns: dict[str, list[str]] = {}
    for column, verdict in given.items():
        if verdict.error is not None:
            columns.setdefault(verdict.error, []).append(column)
    return "; ".join(f"{', '.join(c)}: {reason}" for reason, c in columns.items()) or None
