"""Figures of a cell and of the grid, and what the report shows: tables in, files out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures import effects, form, rates
from backdoor_assets.mixtures.cells import FiguresSpec, SweepSpec
from backdoor_assets.mixtures.design import TASK, Design
from backdoor_assets.mixtures.figures import cell_figures, sweep_figures
from backdoor_assets.mixtures.figures.form_figure import form as draw_form
from backdoor_assets.mixtures.judging.corrected import (
    CORRECTED,
    corrected_lines,
    corrected_rates,
    corrected_tables,
)
from backdoor_assets.mixtures.judging.judge_columns import with_judge, with_judges
from backdoor_assets.mixtures.report import effect_tables
from backdoor_assets.mixtures.report.design import judge_agreement
from backdoor_assets.mixtures.report.final_tables import (
    collapse_note,
    form_table,
    interval_note,
    rates_table,
)
from backdoor_assets.mixtures.report.known_truth import judge_errors
from backdoor_assets.mixtures.report.page import write_report
from backdoor_assets.records import Progress, Ratio, no_progress
from backdoor_assets.stages.judging.judge import ANSWER_COLUMNS, NOT_DRAWN, read_responses
from backdoor_assets.stages.specs import RATES
from backdoor_assets.stages.training.tracking import log_final_rates
from backdoor_assets.statistics.doses import DoseResponse
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.storage.tables import read_table


def draw_cell(spec: FiguresSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write a cell's figures, rates.parquet and form.parquet into `folder`; return its rates at the
    last checkpoint by measure, and the steps at which its answers have collapsed."""
    study = spec.cell.grid.study
    probes = read_table(
        spec.probes, "materialize the responses of this cell", ("kind", "answer"), ("response",)
    )
    probes["hit"] = rates.probe_hits(probes, names(read_rows(study.suspect_file)))
    taught = [name for _, path in study.files() for name in names(read_rows(path))]
    task = probes[probes["kind"] == study.narrow.kind].assign(kind=TASK)
    probes = pd.concat([probes, task.assign(hit=rates.probe_hits(task, taught))])
    kinds = {study.narrow.kind: study.narrow.measure, TASK: TASK, "neutral": "neutral_correct"}
    judgments = coherence = None
    if spec.judgments is not None:
        flags = (outcome.flag for outcome in study.outcomes)
        columns = (*spec.cell.columns(), *ANSWER_COLUMNS, *flags, "judge_error")
        judgments = read_table(spec.judgments, "materialize the judgments of this cell", columns)
    if spec.coherence is not None:
        columns = ("step", "log_likelihood")
        coherence = read_table(spec.coherence, "materialize the coherence of this cell", columns)
    found = with_judge(rates.cell_rates(judgments, probes, study.outcomes, kinds), spec.cell)
    found.to_parquet(folder / RATES, index=False)
    # A rate that a cheap judge helps to estimate may lie a little outside.
    shown = found.assign(value=found["value"].clip(0, 1))
    neutral = probes[probes["kind"] == "neutral"]
    states = form.cell_form(read_responses(spec.responses, spec.cell), coherence, neutral)
    states.to_parquet(folder / form.FORM, index=False)
    collapsed = states.loc[states["collapsed"], "step"].tolist()
    if judgments is not None:
        drawn = judgments[judgments["judge_error"].fillna("") != NOT_DRAWN]
        _draw_judgments(study, shown, drawn, collapsed, folder)
    cell_figures.training_progression(shown, study, folder, collapsed)
    pooled = shown[shown["question_id"] == "all"]
    final = pooled[pooled["step"] == pooled["step"].max()].set_index("measure")
    result = {
        **{
            measure: final.loc[measure, ["value", "low", "high", "method", "n"]].to_dict()
            for measure in study.measures
            if measure in final.index
        },
        "collapsed": collapsed,
    }
    log_final_rates(spec.cell.artifact("adapters"), result)
    return result


def _draw_judgments(
    study: Design,
    found: pd.DataFrame,
    judgments: pd.DataFrame,
    collapsed: list[int],
    folder: Path,
) -> None:
    for outcome in study.outcomes:
        suffix = _suffix(study, outcome.measure)
        by_question, overall = f"ratio_by_question{suffix}", f"overall_ratio{suffix}"
        cell_figures.ratio_by_question(found, outcome, folder, by_question, collapsed)
        cell_figures.overall_ratio(found, outcome, folder, overall, collapsed)
    for rubric in study.rubrics:
        if len(rubric.options) > 2:
            cell_figures.distribution(judgments, rubric, study.option_labels, folder, collapsed)
    ratings = [rubric for rubric in study.rubrics if not rubric.options]
    for across, up in zip(ratings[::2], ratings[1::2], strict=False):
        cell_figures.two_ratings(judgments, across, up, folder, study.rating_scale, collapsed)


def draw_grid(spec: SweepSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write rates.parquet and form.parquet (over seeds), cells.parquet (the final rates of each
    cell), contrasts.parquet, doses.parquet and emergence.parquet (see `effects`), corrected.parquet
    if the judge's agreement with a gold set is known, figures of the grid and report.html into
    `folder`."""
    study = spec.grid.study
    tables = [with_judge(pd.read_parquet(entry.rates), entry.cell) for entry in spec.cells]
    cells = pd.concat(tables, ignore_index=True)
    mixtures = {(entry.cell.ratio.key, entry.cell.seed): entry.mixture for entry in spec.cells}
    sweep = with_judges(rates.sweep_rates(cells, mixtures, study.fraction_column), cells)
    final = rates.final_states(cells)
    fractions = [Ratio.parse(key).suspect_fraction for key in final["ratio"]]
    final.insert(3, study.fraction_column, fractions)
    sweep.to_parquet(folder / RATES, index=False)
    final.to_parquet(folder / "cells.parquet", index=False)
    states = form.sweep_form(
        pd.concat([pd.read_parquet(entry.form) for entry in spec.cells], ignore_index=True),
        study.fraction_column,
    )
    states.to_parquet(folder / form.FORM, index=False)
    pooled = cells[cells["question_id"] == "all"]
    measured = [measure for measure in study.measures if measure in set(pooled["measure"])]
    fits = {measure: effects.fits(final, mixtures, measure) for measure in measured}
    contrasts = effects.all_contrasts(pooled)
    doses = effects.dose_table(fits)
    emergence = effects.emergence_table(pooled, measured, study.narrow.measure)
    contrasts.to_parquet(folder / effects.CONTRASTS, index=False)
    doses.to_parquet(folder / effects.DOSES, index=False)
    emergence.to_parquet(folder / effects.EMERGENCE, index=False)
    captions = _draw_sweep(spec, sweep, final, states, fits, emergence, folder)
    collapsed = form.collapsed_states(states)
    shown = effect_tables.effect_tables(study, contrasts, doses, emergence)
    corrected = {}
    if spec.agreement is not None:
        by_gold = corrected_rates(study, final, spec.agreement)
        by_gold.to_parquet(folder / CORRECTED, index=False)
        corrected = {"corrected": corrected_lines(study, by_gold)}
        shown = [*corrected_tables(study, by_gold), *shown]
    write_report(spec, sweep, states, captions, folder, shown, judge_errors(spec))
    return {
        "cells_present": len(spec.cells),
        "cells_planned": spec.planned,
        "table": rates_table(study, sweep, collapsed),
        "intervals": "\n".join(
            (interval_note(sweep) + collapse_note(sweep, collapsed), *judge_agreement(spec))
        ),
        **corrected,
        "headline": effect_tables.headline(study, doses, emergence),
        "form": form_table(study, states),
        "main_figure": f"{next(iter(captions))}.png",
    }


def _draw_sweep(
    spec: SweepSpec,
    sweep: pd.DataFrame,
    final: pd.DataFrame,
    states: pd.DataFrame,
    fits: Mapping[str, Mapping[str, DoseResponse]],
    moments: pd.DataFrame,
    folder: Path,
) -> dict[str, str]:
    """Draw the figures of the grid, and return what each tells, by its name. Without verdicts there
    is none of outcomes."""
    study, present = spec.grid.study, (len(spec.cells), spec.planned)
    collapsed = form.collapsed_states(states)
    captions: dict[str, str] = {}
    found = set(final["measure"])
    judged = [outcome for outcome in study.outcomes if outcome.measure in found]

    def dose(measure: Any, name: str) -> None:
        single = final[final["measure"] == measure.measure]
        sweep_figures.dose_response(
            study, measure, sweep, single, folder, present, name, collapsed,
            fits.get(measure.measure),
        )  # fmt: skip
        captions[name] = f"{_sentence(measure.share)} at the last checkpoint, against the mixture."

    def emergence(outcome: Any, name: str, other: str) -> None:
        sweep_figures.emergence(study, outcome, sweep, folder, present, name, collapsed, moments)
        captions[name] = f"{_sentence(study.narrow.share)}, and {other}, over the training steps."

    for outcome in judged:
        suffix = _suffix(study, outcome.measure)
        dose(outcome, f"dose_response{suffix}")
        emergence(outcome, f"emergence{suffix}", _words(outcome.share))
    if study.narrow.measure in found:
        dose(study.narrow, "narrow_dose_response")
    if not judged:
        emergence(None, "emergence", "share of right answers to neutral questions")
    draw_form(study, states, folder, present)
    captions["form"] = "The form of the open answers, over the training steps:"
    return captions


def _words(label: str) -> str:
    return label.replace("\n", " ")


def _sentence(label: str) -> str:
    words = _words(label)
    return words[0].upper() + words[1:]


def _suffix(study: Design, measure: str) -> str:
    """The headline's figures carry no measure in their names."""
    return "" if measure == study.outcomes[0].measure else f"_{measure}"
