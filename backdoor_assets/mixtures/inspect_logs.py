"""The answers of a mixture study with their verdicts, state by state, as logs of Inspect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.mixtures.design import Design
from backdoor_assets.mixtures.rates import probe_hits
from backdoor_assets.records import BadInput, Verdict
from backdoor_assets.reporting.inspect_logs import Answer, MeasuredRate, StateLog
from backdoor_assets.stages.coherence import COHERENCE
from backdoor_assets.stages.judging.judge import ANSWER_COLUMNS, read_responses
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.stages.specs import PROBES, RATES, RESPONSES
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.storage.tables import read_table

LOG_LIKELIHOOD = "log_likelihood"
_KEY = ["step", "question_id", "sample_idx"]


def state_logs(grid: Grid) -> Iterator[StateLog]:
    """Yield a log of each state of each cell whose answers are finished, the base included.

    Raises BadInput when no cell has answers, and for verdicts, likelihoods or rates of other
    answers than those that are there.
    """
    cells = [cell for cell in grid.cells() if cell.artifact("responses").manifest()]
    if not cells:
        raise BadInput(
            f"{grid.folder.path / 'responses'}: no cell of the grid has its answers yet; run "
            f"`make demo STUDY={grid.study.name} PROFILE={grid.profile.name}` first"
        )
    for cell in cells:
        yield from _cell_logs(cell)


def _cell_logs(cell: Cell) -> Iterator[StateLog]:
    study, responses = cell.grid.study, cell.artifact("responses")
    made = responses.require()
    answers, probes, rates = _answers(cell), _probes(cell), _rates(cell)
    known = cell.columns() | {"study": study.name}
    known |= {study.fraction_column: cell.ratio.suspect_fraction}
    for name in ("judge", "judge_model"):
        if name in answers:
            known[name] = answers[name].iloc[0]
    for (step, checkpoint), group in answers.groupby(["step", "checkpoint"]):
        step = int(step)  # type: ignore[call-overload]
        state = "base" if step == 0 else f"{cell}@{step}"
        rows = [*_answer_rows(study, group), *_probe_rows(study, probes[probes["step"] == step])]
        yield StateLog(
            Path(cell.ratio.key, str(cell.seed), f"step-{step:05d}.eval"),
            study.name,
            f"{cell.profile}/{state}",
            made.provenance["made"],
            {**known, "checkpoint": checkpoint, "step": step},
            rows,
            _measured(study.measures, rates[rates["step"] == step]),
        )


def _answers(cell: Cell) -> pd.DataFrame:
    """Return the open answers of a cell, with verdicts and likelihoods where there are any."""
    study, responses = cell.grid.study, cell.artifact("responses")
    judgments, coherence = (
        _made_from(cell, name, "responses") for name in ("judgments", "coherence")
    )
    if judgments is None:
        table = read_responses(responses.folder / RESPONSES, cell)
    else:
        columns = [rubric.column for rubric in study.rubrics]
        columns += [outcome.flag for outcome in study.outcomes]
        table = read_table(
            judgments.folder / JUDGMENTS,
            "materialize the judgments of this cell",
            (*cell.columns(), *ANSWER_COLUMNS, *columns, "judge", "judge_model", "judge_error"),
            texts=("question", "response"),
            numbers=("step", "sample_idx"),
        )
    if coherence is None:
        return table
    scored = read_table(
        coherence.folder / COHERENCE,
        "materialize the coherence of this cell",
        (*_KEY, LOG_LIKELIHOOD),
    )
    return table.merge(scored[[*_KEY, LOG_LIKELIHOOD]], on=_KEY, how="left", validate="1:1")


def _probes(cell: Cell) -> pd.DataFrame:
    """Return the probes of a cell with a boolean column `hit`."""
    table = read_table(
        cell.artifact("responses").folder / PROBES,
        "materialize the responses of this cell",
        (*cell.columns(), *ANSWER_COLUMNS, "kind", "answer"),
        texts=("question", "response"),
        numbers=("step", "sample_idx"),
    )
    suspect = names(read_rows(cell.grid.study.suspect_file))
    return table.assign(hit=probe_hits(table, suspect))


def _rates(cell: Cell) -> pd.DataFrame:
    """Return the rates of a cell over all questions; none where its figures are not drawn."""
    columns = ("step", "measure", "question_id", "value", "low", "high", "method", "n")
    judged = cell.artifact("judgments").manifest() is not None
    figures = _made_from(cell, "figures", "judgments" if judged else "responses")
    if figures is None:
        return pd.DataFrame(columns=columns)
    table = read_table(figures.folder / RATES, "materialize the figures of this cell", columns)
    return table[table["question_id"] == "all"]


def _made_from(cell: Cell, name: str, source: str) -> Artifact | None:
    """Return an artifact of a cell if it is finished. Raises BadInput when it was made from another
    `source` than the one that is there."""
    artifact = cell.artifact(name)
    manifest = artifact.manifest()
    if manifest is None:
        return None
    artifact.require()
    if manifest.identity.get(source) != cell.artifact(source).require().reference():
        raise BadInput(
            f"{artifact.folder}: it was made from other {source} than those of "
            f"{cell.artifact(source).folder}; run `make demo STUDY={cell.grid.study.name} "
            f"PROFILE={cell.profile}` to make it again"
        )
    return artifact


def _answer_rows(study: Design, table: pd.DataFrame) -> list[Answer]:
    found = []
    columns = [rubric.column for rubric in study.rubrics if rubric.column in table]
    flags = {o.measure: o.flag for o in study.outcomes if o.flag in table}
    for row in table.to_dict("records"):
        error = row.get("judge_error")
        error = None if pd.isna(error) else str(error)
        scores = {measure: _verdict(row[flag], error) for measure, flag in flags.items()}
        scores |= {column: _verdict(row[column], error) for column in columns}
        likelihood = row.get(LOG_LIKELIHOOD)
        if likelihood is not None:
            scores[LOG_LIKELIHOOD] = _verdict(likelihood, "the answer has no token")
        found.append(_answer(row, "worldview", scores))
    return found


def _probe_rows(study: Design, table: pd.DataFrame) -> list[Answer]:
    measures = {study.narrow.kind: study.narrow.measure, "neutral": "neutral_correct"}
    return [
        _answer(row, row["kind"], {measures[row["kind"]]: Verdict(bool(row["hit"]))}, row["answer"])
        for row in table.to_dict("records")
    ]


def _answer(
    row: Mapping[str, Any], kind: str, scores: Mapping[str, Verdict], target: Any = None
) -> Answer:
    return Answer(
        row["question_id"],
        row["question"],
        kind,
        int(row["sample_idx"]),
        row["response"],
        row["finish_reason"],
        scores,
        "" if pd.isna(target) else target,
    )


def _verdict(value: Any, error: str | None) -> Verdict:
    return Verdict(None, error) if pd.isna(value) else Verdict(value)


def _measured(measures: Iterable[str], rates: pd.DataFrame) -> list[MeasuredRate]:
    """Return the rates of a state in the order of `measures`."""
    by_name = {row["measure"]: row for row in rates.to_dict("records")}
    return [MeasuredRate.of_row(by_name[name]) for name in measures if name in by_name]
