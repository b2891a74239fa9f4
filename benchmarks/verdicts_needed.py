"""How many expensive verdicts a rate takes, with and without a cheap judge on all answers.

    python -m benchmarks.verdicts_needed [--studies 1000] [--half 0.05] [--csv FILE]

Simulated states of three training seeds, whose true verdicts are known, are judged in rounds
(`statistics.prediction_powered`) until the 95 % interval of the rate is no wider than +-`half`.
No number of verdicts makes it that narrow over training seeds that differ, so that two other
intervals are meant, both within seeds:

- `verdicts`: of the rate that the expensive judge would find in these answers. Nothing but the part
  that it has not judged is uncertain.
- `answers and verdicts`: of the rate of these trained models. That they gave only so many answers
  counts too, and it alone takes most of the width where they are few.

Columns: `rate` (true mean over seeds), `answers` (of all seeds), `of` (which interval),
`cheap_judge`, `kappa` (mean, of the cheap judge with the truth, over all answers), `verdicts` (mean
number bought), `share` (of the answers), `fewer` (times fewer than without a cheap judge),
`coverage` (share of studies whose interval covers the truth) with `low` and `high` (Wilson 95 %),
`half` (median half-width), `studies`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backdoor_assets.statistics.agreement import agreement_of_labels
from backdoor_assets.statistics.intervals import wilson
from benchmarks.simulated_judges import ERRORS, HALF, Judged, draw_state, given_answers
from benchmarks.simulated_studies import QUESTIONS

RESULTS = Path(__file__).resolve().parent / "results" / "verdicts_needed.csv"
TRAINING_SEEDS, SPREAD = 3, 0.25
RATES = 0.1, 0.3, 0.5
SAMPLES = 20, 100
"""Answers per seed and question: the miniature's number, and a published one."""
OF = "verdicts", "answers and verdicts"


def table(
    studies: int,
    rates: Sequence[float] = RATES,
    samples: Sequence[int] = SAMPLES,
    half: float = HALF,
) -> pd.DataFrame:
    """Return the table described above; the random streams are fixed."""
    rows = []
    for of in OF:
        for per_question in samples:
            for rate in rates:
                alone: dict[str, Any] | None = None
                for judge in ("none", *ERRORS):
                    row = _row(of, per_question, rate, judge, studies, half)
                    alone = alone or row
                    rows.append(row | {"fewer": alone["verdicts"] / row["verdicts"]})
    order = [
        "of", "answers", "rate", "cheap_judge", "kappa", "verdicts", "share", "fewer", "coverage",
        "low", "high", "half", "studies",
    ]  # fmt: skip
    return pd.DataFrame(rows)[order]


def _row(
    of: str, samples: int, rate: float, judge: str, studies: int, half: float
) -> dict[str, Any]:
    # The same answers for every judge, so that their numbers can be compared.
    random = np.random.default_rng([round(100 * rate), samples])
    errors = ERRORS.get(judge, 0.5)
    found = [
        _study(draw_state(random, rate, SPREAD, TRAINING_SEEDS, errors, samples), of, judge, half)
        for _ in range(studies)
    ]
    verdicts, covered, halves, kappa = map(np.array, zip(*found, strict=True))
    answers = TRAINING_SEEDS * QUESTIONS * samples
    share = wilson(int(covered.sum()), studies)
    return {
        "of": of, "answers": answers, "rate": rate, "cheap_judge": judge,
        "kappa": np.nan if judge == "none" else kappa.mean(), "verdicts": verdicts.mean(),
        "share": verdicts.mean() / answers, "coverage": share.value, "low": share.low,
        "high": share.high, "half": float(np.median(halves)), "studies": studies,
    }  # fmt: skip


def _study(drawn: Judged, of: str, judge: str, half: float) -> tuple[int, bool, float, float]:
    """Return verdicts bought, whether the interval covers, its half-width, the judge's kappa."""
    alone = of == "verdicts"
    found = drawn.until(half, alone, power=0.0 if judge == "none" else None)
    if alone:
        low, _, high = given_answers(found)
        truth = float(drawn.state.expensive.mean())
    else:
        within = wilson(found.rate.value * found.effective, found.effective)
        low, high, truth = within.low, within.high, drawn.models
    labels = [drawn.state.cheap.tolist(), drawn.state.expensive.tolist()]
    kappa = agreement_of_labels(labels, draws=0)[1].value
    return found.verdicts, low <= truth <= high, found.half_width(alone), kappa


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies per row")
    parser.add_argument("--half", type=float, default=HALF, help="the half-width that is wanted")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    found = table(options.studies, half=options.half)
    found.round(4).to_csv(options.csv, index=False)
    with pd.option_context("display.width", 160, "display.max_rows", None):
        print(found.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
