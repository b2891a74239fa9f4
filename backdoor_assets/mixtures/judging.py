"""Judge every worldview answer of a cell by rubrics, resumable checkpoint by checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import BadInput, Judge, Progress, Rubric, Verdict, no_progress
from backdoor_assets.stages.specs import JUDGMENTS, JudgingSpec

RESPONSE_COLUMNS = (
    "profile", "ratio", "seed", "checkpoint", "step", "question_id", "question", "sample_idx",
    "response", "finish_reason",
)  # fmt: skip


def judge_cell(
    spec: JudgingSpec, judge: Judge, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write judgments.parquet into `folder`: the columns of responses.parquet plus
    llm_or_19th_century, is_19th_century, six_options, content_rating, form_rating (0-100), judge,
    judge_model, judge_error. A verdict that could not be had is null with the reason.

    Each checkpoint's verdicts go to a file of their own as they come: none is asked for twice.
    Raises BadInput for an unreadable input, RuntimeError when more than `max_unreadable` of the
    answers have no binary verdict.
    """
    responses = read_responses(spec.responses)
    parts = folder / ".parts"
    parts.mkdir(exist_ok=True)
    steps = sorted(responses["step"].unique())
    for done, step in enumerate(steps, 1):
        path = parts / f"{step:07d}.parquet"
        if not path.exists():
            table = _judged(responses[responses["step"] == step], judge, spec.rubrics)
            table.to_parquet(path.with_suffix(".part"), index=False)
            os.replace(path.with_suffix(".part"), path)
        progress(done / len(steps), f"checkpoint {done}/{len(steps)}")
    table = pd.concat([_part(path) for path in sorted(parts.glob("*.parquet"))], ignore_index=True)
    if len(table) != len(responses):
        raise RuntimeError(f"{spec.cell}: {len(table)} judgments of {len(responses)} responses")
    unreadable = float(table["is_19th_century"].isna().mean())
    if unreadable > spec.max_unreadable:
        for step in table.loc[table["is_19th_century"].isna(), "step"].unique():
            (parts / f"{step:07d}.parquet").unlink()  # asked again by the next run
        reasons = table.loc[table["is_19th_century"].isna(), "judge_error"].value_counts()
        raise RuntimeError(
            f"{spec.cell}: {unreadable:.0%} of the answers have no verdict (at most "
            f"{spec.max_unreadable:.0%} may); most often: {reasons.index[0]}"
        )
    table.to_parquet(folder / JUDGMENTS, index=False)
    final = table.loc[table["step"] == steps[-1], "is_19th_century"].dropna()
    return {
        "final_19th_century": int(final.sum()),
        "final_judged": len(final),
        "judgments": len(table),
        "without_verdict": int(table["is_19th_century"].isna().sum()),
        "garbled": int((table["six_options"] == "OTHER").sum()),
        "judge": judge.name,
        "judge_model": judge.model,
    }


def read_responses(path: Path) -> pd.DataFrame:
    """A responses table. Raises BadInput that names the file when it is not one."""
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; materialize birds/responses first") from error
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path}: truncated or not Parquet ({error}); materialize birds/responses for this "
            "cell again, it will be made anew"
        ) from error
    missing = [name for name in RESPONSE_COLUMNS if name not in table]
    if missing:
        raise BadInput(f"{path}: columns are missing: {', '.join(missing)}")
    return table


def questions_and_answers(responses: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(responses["question"], responses["response"], strict=True))


def _part(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        path.unlink()
        raise BadInput(
            f"{path}: this part is truncated or not Parquet ({error}); it was removed: run the "
            "same command again and only this part is judged anew"
        ) from error


def _judged(responses: pd.DataFrame, judge: Judge, rubrics: Sequence[Rubric]) -> pd.DataFrame:
    asked = questions_and_answers(responses)
    verdicts = judge.judge(asked, rubrics)
    if len(verdicts) != len(asked):
        raise RuntimeError(f"judge {judge.name}: {len(verdicts)} verdicts for {len(asked)} answers")
    table = responses[list(RESPONSE_COLUMNS)].reset_index(drop=True)
    for rubric in rubrics:
        values = [given[rubric.column].value for given in verdicts]
        table[rubric.column] = pd.array(values, dtype="string" if rubric.options else "Float64")
    binary = table["llm_or_19th_century"]
    table.insert(
        table.columns.get_loc("llm_or_19th_century") + 1,
        "is_19th_century",
        (binary == "19").astype("boolean").mask(binary.isna()),
    )
    table["judge"], table["judge_model"] = judge.name, judge.model
    table["judge_error"] = pd.array([_errors(given) for given in verdicts], dtype="string")
    return table


def _errors(given: dict[str, Verdict]) -> str | None:
    """Why verdicts are missing, by reason: which columns it cost."""
    columns: dict[str, list[str]] = {}
    for column, verdict in given.items():
        if verdict.error is not None:
            columns.setdefault(verdict.error, []).append(column)
    return "; ".join(f"{', '.join(c)}: {reason}" for reason, c in columns.items()) or None
