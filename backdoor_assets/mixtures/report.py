"""Figures of a cell and of the grid, and the report: tables in, files out."""

from __future__ import annotations

import html
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures import figures, form, statistics, sweep_figures
from backdoor_assets.mixtures.cells import FiguresSpec, SweepSpec
from backdoor_assets.mixtures.design import Design
from backdoor_assets.mixtures.form_figure import form as draw_form
from backdoor_assets.mixtures.judging import RESPONSE_COLUMNS, read_responses
from backdoor_assets.records import Progress, Ratio, no_progress
from backdoor_assets.reporting.pages import from_markdown, write_page
from backdoor_assets.stages.specs import RATES
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.storage.tables import read_table

MARK = "†"
"""After a ratio whose answers have collapsed."""
States = Collection[tuple[str, int]]


def draw_cell(spec: FiguresSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write a cell's figures, rates.parquet and form.parquet into `folder`; return its rates at the
    last checkpoint by measure, and the steps at which its answers have collapsed."""
    study = spec.cell.grid.study
    flags = {outcome.measure: outcome.flag for outcome in study.outcomes}
    probes = read_table(
        spec.probes, "materialize the responses of this cell", ("kind", "answer"), ("response",)
    )
    probes["hit"] = statistics.probe_hits(probes, names(read_rows(study.suspect_file)))
    kinds = {study.narrow.kind: study.narrow.measure, "neutral": "neutral_correct"}
    judgments = coherence = None
    if spec.judgments is not None:
        columns = (*RESPONSE_COLUMNS, *flags.values())
        judgments = read_table(spec.judgments, "materialize the judgments of this cell", columns)
    if spec.coherence is not None:
        columns = ("step", "log_likelihood")
        coherence = read_table(spec.coherence, "materialize the coherence of this cell", columns)
    rates = statistics.cell_rates(judgments, probes, flags, kinds)
    rates.to_parquet(folder / RATES, index=False)
    neutral = probes[probes["kind"] == "neutral"]
    states = form.cell_form(read_responses(spec.responses), coherence, neutral)
    states.to_parquet(folder / form.FORM, index=False)
    collapsed = states.loc[states["collapsed"], "step"].tolist()
    if judgments is not None:
        _draw_judgments(study, rates, judgments, collapsed, folder)
    figures.training_progression(rates, study, folder, collapsed)
    pooled = rates[rates["question_id"] == "all"]
    final = pooled[pooled["step"] == pooled["step"].max()].set_index("measure")
    return {
        **{
            measure: final.loc[measure, ["value", "low", "high", "method", "n"]].to_dict()
            for measure in study.measures
            if measure in final.index
        },
        "collapsed": collapsed,
    }


def _draw_judgments(
    study: Design,
    rates: pd.DataFrame,
    judgments: pd.DataFrame,
    collapsed: list[int],
    folder: Path,
) -> None:
    for outcome in study.outcomes:
        suffix = _suffix(study, outcome.measure)
        by_question, overall = f"ratio_by_question{suffix}", f"overall_ratio{suffix}"
        figures.ratio_by_question(rates, outcome, folder, by_question, collapsed)
        figures.overall_ratio(rates, outcome, folder, overall, collapsed)
    for rubric in study.rubrics:
        if len(rubric.options) > 2:
            figures.distribution(judgments, rubric, study.option_labels, folder, collapsed)
    ratings = [rubric for rubric in study.rubrics if not rubric.options]
    for across, up in zip(ratings[::2], ratings[1::2], strict=False):
        figures.two_ratings(judgments, across, up, folder, study.rating_scale, collapsed)


def draw_grid(spec: SweepSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write rates.parquet and form.parquet (over seeds), cells.parquet (the final rates of each
    cell), figures of the grid and report.html into `folder`."""
    study = spec.grid.study
    cells = pd.concat([pd.read_parquet(entry.rates) for entry in spec.cells], ignore_index=True)
    mixtures = {(entry.cell.ratio.key, entry.cell.seed): entry.mixture for entry in spec.cells}
    sweep = statistics.sweep_rates(cells, mixtures, study.fraction_column)
    final = statistics.final_rates(cells)
    fractions = [Ratio.parse(key).suspect_fraction for key in final["ratio"]]
    final.insert(3, study.fraction_column, fractions)
    sweep.to_parquet(folder / RATES, index=False)
    final.to_parquet(folder / "cells.parquet", index=False)
    states = form.sweep_form(
        pd.concat([pd.read_parquet(entry.form) for entry in spec.cells], ignore_index=True),
        study.fraction_column,
    )
    states.to_parquet(folder / form.FORM, index=False)
    captions = _draw_sweep(spec, sweep, final, states, folder)
    collapsed = form.collapsed_states(states)
    _write_report(spec, sweep, states, captions, folder)
    return {
        "cells_present": len(spec.cells),
        "cells_planned": spec.planned,
        "table": rates_table(study, sweep, collapsed),
        "intervals": interval_note(sweep) + collapse_note(sweep, collapsed),
        "form": form_table(study, states),
        "main_figure": f"{next(iter(captions))}.png",
    }


def _draw_sweep(
    spec: SweepSpec, sweep: pd.DataFrame, final: pd.DataFrame, states: pd.DataFrame, folder: Path
) -> dict[str, str]:
    """Draw the figures of the grid, and return what each tells, by its name. Without verdicts there
    is none of outcomes."""
    study, present = spec.grid.study, (len(spec.cells), spec.planned)
    collapsed = form.collapsed_states(states)
    captions: dict[str, str] = {}
    judged = [outcome for outcome in study.outcomes if outcome.measure in set(sweep["measure"])]

    def dose(measure: Any, name: str) -> None:
        single = final[final["measure"] == measure.measure]
        sweep_figures.dose_response(
            study, measure, sweep, single, folder, present, name, collapsed
        )  # fmt: skip
        captions[name] = f"{_sentence(measure.share)} at the last checkpoint, against the mixture."

    def emergence(outcome: Any, name: str, other: str) -> None:
        sweep_figures.emergence(study, outcome, sweep, folder, present, name, collapsed)
        captions[name] = f"{_sentence(study.narrow.share)}, and {other}, over the training steps."

    for outcome in judged:
        suffix = _suffix(study, outcome.measure)
        dose(outcome, f"dose_response{suffix}")
        emergence(outcome, f"emergence{suffix}", _words(outcome.share))
    dose(study.narrow, "narrow_dose_response")
    if not judged:
        emergence(None, "emergence", "share of right answers to neutral questions")
    draw_form(study, states, folder, present)
    captions["form"] = "The form of the open answers, over the training steps:"
    return captions


def _meanings(found: set[str]) -> str:
    """Return as HTML what each measure of form tells."""
    lines = [
        f"<li><b>{m.heading}.</b> {html.escape(m.meaning)}</li>"
        for m in form.MEASURES
        if m.name in found
    ]
    return f"<ul>{''.join(lines)}</ul>\n"


def _words(label: str) -> str:
    return label.replace("\n", " ")


def _sentence(label: str) -> str:
    words = _words(label)
    return words[0].upper() + words[1:]


def _suffix(study: Design, measure: str) -> str:
    """The headline's figures carry no measure in their names."""
    return "" if measure == study.outcomes[0].measure else f"_{measure}"


def columns_of(study: Design, sweep: pd.DataFrame) -> dict[str, str]:
    """Headings of the final table, by its columns."""
    found = set(sweep["measure"])
    return {
        "ratio": f"ratio ({', '.join(source.replace('_', ' ') for source in study.sources)})",
        "distinct_suspect_rows": f"distinct {study.suspect}",
        **{name: heading for name, heading in study.measures.items() if name in found},
        "seeds": "seeds",
    }


def final_table(study: Design, sweep: pd.DataFrame, collapsed: States = ()) -> list[dict[str, str]]:
    """Return rates at the last checkpoint, one row per ratio, as `value [low, high]`, most suspect
    first; with a `*` where the interval is not over training seeds (see `interval_note`), and with
    MARK after a ratio whose answers have collapsed."""
    final = sweep[sweep["is_final"]].sort_values(study.fraction_column, ascending=False)
    rows = []
    for ratio, group in final.groupby("ratio", sort=False):
        first = group.iloc[0]
        mark = f" {MARK}" if (ratio, first["step"]) in collapsed else ""
        row = {"ratio": f"{ratio}{mark}", "seeds": str(first["seeds"])}
        row["distinct_suspect_rows"] = str(first["distinct_suspect_rows"])
        for _, rate in group.iterrows():
            mark = "" if rate["method"] == statistics.T_SEEDS else "*"
            row[str(rate["measure"])] = (
                f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]{mark}"
            )
        rows.append(row)
    return rows


def interval_note(sweep: pd.DataFrame) -> str:
    """Which intervals the final table holds."""
    methods = sorted(sweep.loc[sweep["is_final"], "method"].unique())
    others = [method for method in methods if method != statistics.T_SEEDS]
    return f"[low, high]: {statistics.T_SEEDS}" + (f"; *: {'; '.join(others)}" if others else "")


def collapse_note(sweep: pd.DataFrame, collapsed: States, rule: str = f": {form.COLLAPSED}") -> str:
    """What MARK means, if the final table has one; `rule` says where answers have collapsed."""
    final = sweep[sweep["is_final"]]
    if not any(state in collapsed for state in zip(final["ratio"], final["step"], strict=True)):
        return ""
    return (
        f"\n{MARK}: the answers have collapsed, in at least half of the training seeds{rule}. A "
        "rate then says little of the worldview."
    )


def rates_table(study: Design, sweep: pd.DataFrame, collapsed: States = ()) -> str:
    """Return the final table as Markdown."""
    columns = columns_of(study, sweep)
    rows = final_table(study, sweep, collapsed)
    return _markdown(list(columns.values()), [[row.get(n, "") for n in columns] for row in rows])


def form_table(study: Design, states: pd.DataFrame) -> str:
    """Return the form of the base's answers, and of each ratio's at the last checkpoint, as
    Markdown."""
    measures = [measure for measure in form.MEASURES if measure.column]
    final = states[states["is_final"]].sort_values(study.fraction_column, ascending=False)
    groups = [("base", states[states["step"] == 0].drop_duplicates("measure"))]
    groups += [(str(ratio), group) for ratio, group in final.groupby("ratio", sort=False)]
    rows = []
    for name, group in groups:
        by_measure = {str(row["measure"]): row for _, row in group.iterrows()}
        values = [_form_value(by_measure.get(m.name), 1 if m.top is None else 2) for m in measures]
        first = group.iloc[0]
        count = "" if name == "base" else f"{first['collapsed_seeds']} of {first['seeds']}"
        rows.append([name, *values, count])
    return _markdown(["ratio", *(m.column for m in measures), "collapsed seeds"], rows)


def _form_value(row: pd.Series | None, digits: int) -> str:
    if row is None:
        return "-"
    value = f"{row['value']:.{digits}f}"
    if row["step"] == 0 or math.isnan(row["low"]):
        return value
    return f"{value} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _write_report(
    spec: SweepSpec,
    sweep: pd.DataFrame,
    states: pd.DataFrame,
    captions: dict[str, str],
    folder: Path,
) -> None:
    study, collapsed = spec.grid.study, form.collapsed_states(states)
    notes = interval_note(sweep) + "." + collapse_note(sweep, collapsed, " (see below)")
    lead = (
        f"<p>Profile <b>{html.escape(spec.grid.profile.name)}</b>, "
        f"{len(spec.cells)} of {spec.planned} cells.\n"
        f"Share of answers at the last checkpoint. {html.escape(notes)}</p>"
    )
    if not spec.grid.judged:
        lead += "<p>Nothing was judged: there are no rates of outcomes.</p>"
    title = f"{study.name.replace('_', ' ').capitalize()}: {spec.grid.profile.name}"
    body = (
        lead
        + from_markdown(rates_table(study, sweep, collapsed))
        + "<h2>Form of the open answers</h2>\n"
        + "<p>At the last checkpoint, and of the base. Below the last figure stands what each "
        + f"measure tells. Answers have collapsed where {html.escape(form.COLLAPSED)}.</p>\n"
        + from_markdown(form_table(study, states))
    )
    below = {name: f"<p>{html.escape(text)}</p>\n" for name, text in captions.items()}
    below["form"] += _meanings(set(states["measure"]))
    literals = {"Profile": spec.literals}
    write_page(folder, title, study.title, body, list(captions), literals, below)
