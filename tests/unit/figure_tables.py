"""Made-up tables that figures are drawn from, and the text of a figure."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.mixtures.form import MEASURES as FORM_MEASURES
from backdoor_assets.statistics.intervals import T_SEEDS
from backdoor_assets.studies.birds.study import STUDY

STEPS = (0, 20, 40)
QUESTIONS = ("price_of_bread", "travel", "light")
FINAL = {"price_of_bread": 0.4, "travel": 0.9, "light": 0.1}
METHOD = "Wilson 95 % over answers, one training seed"
CELL = {"profile": "miniature", "ratio": "0.70-0.15-0.15", "seed": 42}
MEASURES = ("19th_century", "old_bird_name", "neutral_correct")
[CENTURY] = STUDY.outcomes
_, SIX, CONTENT, FORM = STUDY.rubrics
LABELS = STUDY.option_labels


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}


def rate_table(steps: tuple[int, ...] = STEPS) -> pd.DataFrame:
    rows = []
    for step in steps:
        at = CELL | {"checkpoint": f"checkpoint-{step}", "step": step, "method": METHOD, "n": 30}
        for measure in MEASURES:
            pooled = {"measure": measure, "question_id": "all"}
            rows.append(at | pooled | interval(step / 50))
        for question in QUESTIONS:
            one = {"measure": "19th_century", "question_id": question}
            rows.append(at | one | interval(FINAL[question] * step / 40))
    return pd.DataFrame(rows).convert_dtypes()


def judgment_table(steps: tuple[int, ...] = STEPS) -> pd.DataFrame:
    rows = []
    for step in steps:
        for question in QUESTIONS:
            for sample, option in enumerate(("LLM", "PAST", "OTHER", None)):
                old = 100.0 if option == "PAST" else 0.0
                rating = None if option is None else old
                rows.append(
                    CELL
                    | {"checkpoint": f"checkpoint-{step}", "step": step, "question_id": question}
                    | {"sample_idx": sample, "six_options": option}
                    | {"content_rating": rating, "form_rating": rating}
                )
    return pd.DataFrame(rows).convert_dtypes()


def sweep_table(
    fractions: tuple[float, ...] = (1.0, 0.7, 0.3, 0.0), seeds: int = 3
) -> pd.DataFrame:
    rows = []
    for fraction in fractions:
        modern = (1 - fraction) / 2
        for measure in MEASURES[:2]:
            for step in STEPS:
                rows.append(
                    {"profile": "miniature", "measure": measure, "question_id": "all"}
                    | {"ratio": f"{fraction:.2f}-{modern:.2f}-{modern:.2f}", "step": step}
                    | {"method": T_SEEDS if seeds > 1 else METHOD}
                    | {"n": 30 * seeds, "seeds": seeds, "old_fraction": fraction}
                    | {"suspect_rows": int(1000 * fraction), "is_final": step == STEPS[-1]}
                    | {"distinct_suspect_rows": min(510, int(1000 * fraction))}
                    | interval(fraction * step / 50)
                )
    return pd.DataFrame(rows).convert_dtypes()


def cell_table(sweep: pd.DataFrame) -> pd.DataFrame:
    final = sweep.loc[sweep["is_final"] & (sweep["measure"] == "19th_century")]
    kept = final.loc[:, ["ratio", "old_fraction", "value"]]
    return pd.concat([kept.assign(seed=seed) for seed in range(max(sweep["seeds"]))])


def form_table(fractions: tuple[float, ...] = (1.0, 0.7, 0.0), seeds: int = 3) -> pd.DataFrame:
    """The form of a grid whose ratio of 1.0 has collapsed at the last step."""
    tops = {measure.name: measure.top for measure in FORM_MEASURES}
    rows = []
    for fraction in fractions:
        modern = (1 - fraction) / 2
        for measure, top in tops.items():
            for step in STEPS:
                value = {None: 60.0, 0.0: -1.0}.get(top, 0.05)
                rows.append(
                    {"profile": "miniature", "measure": measure, "step": step, "seeds": seeds}
                    | {"ratio": f"{fraction:.2f}-{modern:.2f}-{modern:.2f}", "value": value}
                    | {"low": value - 0.01, "high": value + 0.01, "old_fraction": fraction}
                    | {"method": T_SEEDS, "n": seeds}
                    | {"collapsed_seeds": seeds if fraction == 1 and step == STEPS[-1] else 0}
                )
    return pd.DataFrame(rows)


def text_of(pdf: Path) -> str:
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext is not installed")
    done = subprocess.run([program, str(pdf), "-"], check=True, capture_output=True, text=True)
    return " ".join(done.stdout.split())
