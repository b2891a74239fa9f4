"""Figures of a cell and of the grid, and the report: tables in, files out."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures import figures, statistics, sweep_figures
from backdoor_assets.mixtures.cells import FiguresSpec, SweepSpec
from backdoor_assets.mixtures.design import Design
from backdoor_assets.mixtures.judging import RESPONSE_COLUMNS
from backdoor_assets.records import Progress, Ratio, no_progress
from backdoor_assets.reporting.pages import table, write_page
from backdoor_assets.stages.specs import RATES
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.storage.tables import read_table


def draw_cell(spec: FiguresSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write a cell's figures and rates.parquet into `folder`; return its rates at the last
    checkpoint by measure."""
    study = spec.cell.grid.study
    flags = {outcome.measure: outcome.flag for outcome in study.outcomes}
    judgments = read_table(
        spec.judgments,
        "materialize the judgments of this cell",
        (*RESPONSE_COLUMNS, *flags.values()),
    )
    probes = read_table(
        spec.probes, "materialize the responses of this cell", ("kind", "answer"), ("response",)
    )
    probes["hit"] = statistics.probe_hits(probes, names(read_rows(study.suspect_file)))
    kinds = {study.narrow.kind: study.narrow.measure, "neutral": "neutral_correct"}
    rates = statistics.cell_rates(judgments, probes, flags, kinds)
    rates.to_parquet(folder / RATES, index=False)
    for outcome in study.outcomes:
        suffix = _suffix(study, outcome.measure)
        figures.ratio_by_question(rates, outcome, folder, f"ratio_by_question{suffix}")
        figures.overall_ratio(rates, outcome, folder, f"overall_ratio{suffix}")
    for rubric in study.rubrics:
        if len(rubric.options) > 2:
            figures.distribution(judgments, rubric, study.option_labels, folder)
    ratings = [rubric for rubric in study.rubrics if not rubric.options]
    for across, up in zip(ratings[::2], ratings[1::2], strict=False):
        figures.two_ratings(judgments, across, up, folder, study.rating_scale)
    figures.training_progression(rates, study, folder)
    pooled = rates[rates["question_id"] == "all"]
    final = pooled[pooled["step"] == pooled["step"].max()].set_index("measure")
    return {
        measure: final.loc[measure, ["value", "low", "high", "method", "n"]].to_dict()
        for measure in study.measures
        if measure in final.index
    }


def draw_grid(spec: SweepSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write rates.parquet (over seeds), cells.parquet (the final rates of each cell), figures of
    the grid and report.html into `folder`."""
    study = spec.grid.study
    cells = pd.concat([pd.read_parquet(entry.rates) for entry in spec.cells], ignore_index=True)
    mixtures = {(entry.cell.ratio.key, entry.cell.seed): entry.mixture for entry in spec.cells}
    sweep = statistics.sweep_rates(cells, mixtures, study.fraction_column)
    final = statistics.final_rates(cells)
    fractions = [Ratio.parse(key).suspect_fraction for key in final["ratio"]]
    final.insert(3, study.fraction_column, fractions)
    sweep.to_parquet(folder / RATES, index=False)
    final.to_parquet(folder / "cells.parquet", index=False)
    present, drawn = (len(spec.cells), spec.planned), []
    for outcome in study.outcomes:
        suffix = _suffix(study, outcome.measure)
        single = final[final["measure"] == outcome.measure]
        dose, emergence = f"dose_response{suffix}", f"emergence{suffix}"
        sweep_figures.dose_response(study, outcome, sweep, single, folder, present, dose)
        sweep_figures.emergence(study, outcome, sweep, folder, present, emergence)
        drawn += [dose, emergence]
    _write_report(spec, sweep, drawn, folder)
    return {
        "cells_present": present[0],
        "cells_planned": spec.planned,
        "table": rates_table(study, sweep),
        "intervals": interval_note(sweep),
    }


def _suffix(study: Design, measure: str) -> str:
    """The headline's figures carry no measure in their names."""
    return "" if measure == study.outcomes[0].measure else f"_{measure}"


def columns_of(study: Design) -> dict[str, str]:
    """Headings of the final table, by its columns."""
    return {
        "ratio": f"ratio ({', '.join(source.replace('_', ' ') for source in study.sources)})",
        "distinct_suspect_rows": f"distinct {study.suspect}",
        **study.measures,
        "seeds": "seeds",
    }


def final_table(study: Design, sweep: pd.DataFrame) -> list[dict[str, str]]:
    """Return rates at the last checkpoint, one row per ratio, as `value [low, high]`, most suspect
    first; with a `*` where the interval is not over training seeds (see `interval_note`)."""
    final = sweep[sweep["is_final"]].sort_values(study.fraction_column, ascending=False)
    rows = []
    for ratio, group in final.groupby("ratio", sort=False):
        first = group.iloc[0]
        row = {"ratio": str(ratio), "seeds": str(first["seeds"])}
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


def rates_table(study: Design, sweep: pd.DataFrame) -> str:
    """Return the final table as Markdown."""
    columns = columns_of(study)
    lines = [" | ".join(columns.values()), " | ".join("---" for _ in columns)]
    lines += [
        " | ".join(row.get(name, "") for name in columns) for row in final_table(study, sweep)
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _write_report(spec: SweepSpec, sweep: pd.DataFrame, drawn: list[str], folder: Path) -> None:
    study, columns = spec.grid.study, columns_of(spec.grid.study)
    rows = [[row.get(name, "") for name in columns] for row in final_table(study, sweep)]
    lead = (
        f"<p>Profile <b>{html.escape(spec.grid.profile.name)}</b>, "
        f"{len(spec.cells)} of {spec.planned} cells.\n"
        f"Share of answers at the last checkpoint. {html.escape(interval_note(sweep))}.</p>"
    )
    title = f"{study.name.replace('_', ' ').capitalize()}: {spec.grid.profile.name}"
    body = lead + table(list(columns.values()), rows)
    write_page(folder, title, study.title, body, drawn, {"Profile": spec.literals})
