"""How often the intervals of `backdoor_assets.statistics` cover the truth, in simulated studies.

    python -m benchmarks.calibration [--studies 1000] [--csv FILE] [--figure FILE]

`simulated_studies` and `simulated_judges` draw the studies, and send them through the functions
that the real ones use.

Rows of the table: `what` is measured, `case` in words, `seeds`, `share` (of studies in which a 95 %
interval covers the truth, or in which a false alarm is raised), `low` and `high` (Wilson 95 % of
that share), `bias` (mean error of the estimate, in its own unit), `width` (median width of the
interval), `studies`, `wanted` (what the share should be), `kind` ("coverage" or "false alarms").
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backdoor_assets.statistics.intervals import wilson
from benchmarks import simulated_judges, simulated_studies
from benchmarks.simulated_studies import COVERAGE, SEEDS, Case, Group, Simulator

GROUPS: tuple[Group, ...] = (*simulated_studies.GROUPS, *simulated_judges.GROUPS)
"""New ones last: the number of a case decides its random stream."""
RESULTS = Path(__file__).resolve().parent / "results" / "calibration.csv"


def calibrate(studies: int, groups: Sequence[Group] = GROUPS, processes: int = 1) -> pd.DataFrame:
    """Simulate each case and return the table described above. The random streams are fixed,
    whatever the number of processes; more than one need `groups` to be GROUPS."""
    cases = [case for group in groups for case in group()]
    if processes == 1:
        return pd.DataFrame([simulate(case, at, studies) for at, case in enumerate(cases)])
    with ProcessPoolExecutor(processes) as pool:
        return pd.DataFrame(pool.map(_nth, range(len(cases)), repeat(studies)))


def _nth(number: int, studies: int) -> dict[str, Any]:
    """In a process of the pool, where the cases, which are functions, cannot be sent."""
    case = next(islice((case for group in GROUPS for case in group()), number, None))
    return simulate(case, number, studies)


def simulate(case: Case, number: int, studies: int) -> dict[str, Any]:
    """Return the row of a case; its number decides the random stream."""
    sim = Simulator(np.random.default_rng([number, studies]))
    count = max(2, round(studies * case.share))
    found = [result for _ in range(count) if (result := case.study(sim)) is not None]
    if not found:
        raise RuntimeError(f"{case.what}, {case.case}: none of {count} studies has an estimate")
    hits, errors, widths = map(np.array, zip(*found, strict=True))
    rate = wilson(int(hits.sum()), len(hits))
    return {
        "what": case.what, "case": case.case, "seeds": case.seeds, "kind": case.kind,
        "wanted": 0.95 if case.kind == COVERAGE else 0.05, "share": rate.value,
        "low": rate.low, "high": rate.high, "bias": errors.mean(),
        "width": float(np.median(widths)), "studies": len(hits),
        "without_estimate": count - len(hits),
    }  # fmt: skip


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw the coverage of every case over seeds with the wanted band, by estimator and number of
    seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = table[table["kind"] == COVERAGE]
    shown = shown[shown["what"] != "rate over seeds, judge errs"]
    shown = shown[shown["seeds"].isin(SEEDS)]
    kinds = list(dict.fromkeys(shown["what"]))
    lines = math.ceil(len(kinds) / 3)
    figure, panels = plt.subplots(
        lines, 3, figsize=(7, 1.8 * lines), sharey=True, layout="constrained"
    )
    for axes, what in zip(panels.flat, kinds, strict=False):
        axes.axhspan(0.93, 0.97, color="#DDDDDD", linewidth=0)
        axes.axhline(0.95, color="#888888", linewidth=0.6)
        for at, seeds in enumerate(SEEDS):
            rows = shown[(shown["what"] == what) & (shown["seeds"] == seeds)]
            x = at + np.linspace(-0.3, 0.3, len(rows))
            axes.vlines(x, rows["low"], rows["high"], linewidth=0.7, color="#0072B2")
            axes.scatter(x, rows["share"], s=7, color="#0072B2")
        axes.set(title=what, xticks=range(len(SEEDS)), xticklabels=map(str, SEEDS), ylim=(0.8, 1))
        axes.title.set_fontsize(8)
        axes.tick_params(labelsize=7)
    for axes in panels.flat[len(kinds) :]:
        axes.set_axis_off()
    figure.supxlabel("training seeds", fontsize=8)
    figure.supylabel("share of 95 % intervals that cover the truth", fontsize=8)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies per case")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, help="a PNG of the coverages")
    options = parser.parse_args(arguments)
    table = calibrate(options.studies, processes=len(os.sched_getaffinity(0)))
    table.round(4).to_csv(options.csv, index=False)
    with pd.option_context("display.width", 160, "display.max_rows", None):
        print(table.drop(columns=["kind"]).round(3).to_string(index=False))
    if options.figure:
        draw(table, options.figure)


if __name__ == "__main__":
    main()
