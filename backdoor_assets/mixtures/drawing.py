"""A cell's figures and the sweep's, drawn in worker processes: tables in, PDF and PNG out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.graph.resources import Task, make
from backdoor_assets.mixtures import figures, statistics, sweep_figures
from backdoor_assets.mixtures.report import interval_note, rates_table, write_report
from backdoor_assets.records import Progress, Ratio
from backdoor_assets.stages.specs import RATES, FiguresSpec, SweepSpec
from backdoor_assets.storage.artifact import Made
from backdoor_assets.storage.rows import names, read_rows


def draw(order: Task[FiguresSpec], progress: Progress) -> Made:
    """Worker: one cell's figures."""
    return make(draw_cell, order, progress)


def draw_cell(spec: FiguresSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the cell's five figures and rates.parquet into `folder`; return its final rates."""
    judgments, probes = pd.read_parquet(spec.judgments), pd.read_parquet(spec.probes)
    probes["hit"] = statistics.probe_hits(probes, names(read_rows(spec.obsolete_names)))
    rates = statistics.cell_rates(judgments, probes)
    rates.to_parquet(folder / RATES, index=False)
    figures.ratio_by_question(rates, folder)
    figures.overall_ratio(rates, folder)
    figures.six_options_distribution(judgments, folder)
    figures.content_vs_form(judgments, folder)
    figures.training_progression(rates, folder)
    pooled = rates[rates["question_id"] == "all"]
    final = pooled[pooled["step"] == pooled["step"].max()].set_index("measure")
    return {
        measure: final.loc[measure, ["value", "low", "high", "method", "n"]].to_dict()
        for measure in final.index
    }


def draw_sweep(order: Task[SweepSpec], progress: Progress) -> Made:
    """Worker: the figures over the grid."""
    return make(draw_grid, order, progress)


def draw_grid(spec: SweepSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write rates.parquet (over seeds), cells.parquet (the final rates of each cell),
    dose_response, emergence and report.html into `folder`."""
    cells = pd.concat([pd.read_parquet(entry.rates) for entry in spec.cells], ignore_index=True)
    mixtures = {(entry.cell.ratio, entry.cell.seed): entry.mixture for entry in spec.cells}
    sweep = statistics.sweep_rates(cells, mixtures)
    final = statistics.final_rates(cells)
    final.insert(3, "old_fraction", [Ratio.parse(key).suspect_fraction for key in final["ratio"]])
    sweep.to_parquet(folder / RATES, index=False)
    final.to_parquet(folder / "cells.parquet", index=False)
    old = final[final["measure"] == "19th_century"]
    present = len(spec.cells)
    sweep_figures.dose_response(sweep, old, folder, present, spec.planned)
    sweep_figures.emergence(sweep, folder, present, spec.planned)
    write_report(spec, sweep, folder)
    return {
        "cells_present": present,
        "cells_planned": spec.planned,
        "table": rates_table(sweep),
        "intervals": interval_note(sweep),
    }
