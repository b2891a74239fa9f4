"""A cell's figures and the sweep's, drawn in worker processes: tables in, PDF and PNG out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.jobs import RATES, FiguresJob, SweepJob
from backdoor_assets.records import Progress, Ratio
from backdoor_assets.resources import Order, make
from backdoor_assets.rows import names, read_rows
from backdoor_assets.stages import figures, statistics, sweep_figures
from backdoor_assets.storage import Made
from backdoor_assets.studies.birds.report import interval_note, rates_table, write_report


def draw(order: Order[FiguresJob], progress: Progress) -> Made:
    """Worker: one cell's figures."""
    return make(draw_cell, order, progress)


def draw_cell(job: FiguresJob, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the cell's five figures and rates.parquet into `folder`; return its final rates."""
    judgments, probes = pd.read_parquet(job.judgments), pd.read_parquet(job.probes)
    probes["hit"] = statistics.probe_hits(probes, names(read_rows(job.obsolete_names)))
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


def draw_sweep(order: Order[SweepJob], progress: Progress) -> Made:
    """Worker: the figures over the grid."""
    return make(draw_grid, order, progress)


def draw_grid(job: SweepJob, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write rates.parquet (over seeds), cells.parquet (the final rates of each cell),
    dose_response, emergence and report.html into `folder`."""
    cells = pd.concat([pd.read_parquet(entry.rates) for entry in job.cells], ignore_index=True)
    mixtures = {(entry.cell.ratio, entry.cell.seed): entry.mixture for entry in job.cells}
    sweep = statistics.sweep_rates(cells, mixtures)
    final = statistics.final_rates(cells)
    final.insert(3, "old_fraction", [Ratio.parse(key).suspect_fraction for key in final["ratio"]])
    sweep.to_parquet(folder / RATES, index=False)
    final.to_parquet(folder / "cells.parquet", index=False)
    old = final[final["measure"] == "19th_century"]
    present = len(job.cells)
    sweep_figures.dose_response(sweep, old, folder, present, job.planned)
    sweep_figures.emergence(sweep, folder, present, job.planned)
    write_report(job, sweep, folder)
    return {
        "cells_present": present,
        "cells_planned": job.planned,
        "table": rates_table(sweep),
        "intervals": interval_note(sweep),
    }
