"""Rates at the last checkpoint, corrected for the judge's errors on the gold set.

The errors are those of `<study>/agreement`. Of a judge that was fitted to the gold set's tuning
split, only the answers that are held out count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from backdoor_assets.mixtures import rates
from backdoor_assets.mixtures.design import Design, Outcome
from backdoor_assets.mixtures.judging import agreement_tables
from backdoor_assets.records import BadInput, Rate, Ratio
from backdoor_assets.reporting.pages import Table
from backdoor_assets.statistics.judge_error import Calibration, rogan_gladen
from backdoor_assets.storage.manifest import Made

CORRECTED = "corrected.parquet"
COLUMNS = (
    "measure", "ratio", "step", "seeds", "value", "low", "high", "method",
    "corrected", "corrected_low", "corrected_high", "corrected_method",
    "sensitivity", "sensitivity_low", "sensitivity_high",
    "specificity", "specificity_low", "specificity_high",
    "gold_answers", "gold_positive", "gold_part", "judge_id", "refused",
)  # fmt: skip
TRANSPORT = (
    "Right only if the judge errs on these answers as often as on the gold set's. Those were "
    "written to be clear; if it errs more often on a model's own answers, the corrected rates are "
    "wrong too, and their intervals do not say so. To find out, label some answers by hand: "
    "backdoor-assets agreement --labels FILE."
)


def corrected_rates(study: Design, final: pd.DataFrame, agreement: Made) -> pd.DataFrame:
    """Return COLUMNS, one row per outcome and ratio. `value`, `low`, `high` and `method` are the
    rate as judged; `gold_answers` and `gold_positive` are counts; `refused` says why there is no
    corrected rate, or is null.

    `final` holds the pooled rates of cells at their last checkpoint (`rates.final_states`).
    """
    verdicts = pd.read_parquet(agreement.folder / agreement_tables.VERDICTS)
    # Its verdicts on the other answers are by classifiers that are not the one that judged.
    fitted = "gold" in agreement.manifest.identity["first"]
    part = "held out" if fitted else "all"
    known = verdicts[verdicts["part"] == part] if fitted else verdicts
    rows = [
        {**row, "gold_part": part}
        for outcome in study.outcomes
        for row in _rows(outcome, final[final["measure"] == outcome.measure], known)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(outcome: Outcome, final: pd.DataFrame, gold: pd.DataFrame) -> Iterator[dict[str, Any]]:
    judged, labels = (
        [None if pd.isna(label) else label == outcome.option for label in gold[column]]
        for column in (outcome.rubric + suffix for suffix in agreement_tables.SUFFIXES)
    )
    calibration = Calibration.of(labels, judged)
    counts = calibration.positives + calibration.negatives, calibration.positives
    order = sorted(set(final["ratio"]), key=lambda key: -Ratio.parse(key).suspect_fraction)
    for ratio in order:
        group = final[final["ratio"] == ratio]
        uncorrected, refused = rates.state_rate(group), None
        corrected = errors = {}
        try:
            found = rogan_gladen(group["value"].tolist(), group["n"].tolist(), calibration)
            corrected = {**_columns("corrected", found), "corrected_method": found.method}
        except BadInput as error:
            refused = str(error)
        if calibration.positives and calibration.negatives:
            errors = _columns("sensitivity", calibration.sensitivity)
            errors |= _columns("specificity", calibration.specificity)
        yield {
            "measure": outcome.measure,
            "ratio": ratio,
            "step": int(group["step"].iloc[0]),
            "seeds": len(group),
            **{name: getattr(uncorrected, name) for name in ("value", "low", "high", "method")},
            **corrected,
            **errors,
            "gold_answers": counts[0],
            "gold_positive": counts[1],
            "judge_id": "; ".join(sorted(set(group["judge_id"].dropna()))) or None,
            "refused": refused,
        }


def _columns(name: str, rate: Rate) -> dict[str, Any]:
    return {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}


def corrected_tables(study: Design, table: pd.DataFrame) -> list[Table]:
    """Return, for each outcome, the corrected rates beside those that the judge gave, with what
    they rest on."""
    found = []
    for measure, group in table.groupby("measure", sort=False):
        rows = [
            [
                str(row["ratio"]),
                _interval(row, "value"),
                "none" if row["refused"] else _interval(row, "corrected"),
            ]
            for row in group.to_dict("records")
        ]
        methods = sorted(set(group["corrected_method"].dropna()))
        notes = [f"Corrected: {method}." for method in methods]
        notes += [_errors(group.iloc[0]), *_transport(group)]
        caption = f"{study.measures[str(measure)]}, corrected for the judge's errors"
        found.append(Table(caption, ["ratio", "as judged", "corrected"], rows, notes))
    return found


def corrected_lines(study: Design, table: pd.DataFrame) -> str:
    """Return the corrected rates of the ratios with most and with fewest suspect rows, one line per
    outcome, and what they rest on."""
    lines = []
    for measure, group in table.groupby("measure", sort=False):
        heading = study.measures[str(measure)]
        ends = group.iloc[[0, -1]] if len(group) > 1 else group
        parts = [
            f"{_interval(row, 'corrected')} at {row['ratio']} (as judged {row['value']:.2f})"
            for row in ends.to_dict("records")
            if not row["refused"]
        ]
        if parts:
            heading = f"{heading}, corrected for the judge's errors on the gold set: "
            heading += "; ".join(parts)
        lines.append(f"{heading}. {_errors(group.iloc[0])}")
    return "\n".join([*lines, *_transport(table)])


def _transport(table: pd.DataFrame) -> list[str]:
    """What the corrected rates need, if there are any."""
    return [TRANSPORT] if table["refused"].isna().any() else []


def _errors(row: pd.Series) -> str:
    """What the correction of an outcome rests on, or why there is none."""
    if row["refused"]:
        return f"Not corrected: {row['refused']}."
    kind = "held-out gold answers" if row["gold_part"] == "held out" else "gold answers"
    kind += ", whose right verdicts are known"
    others = row["gold_answers"] - row["gold_positive"]
    return (
        f"Sensitivity {_interval(row, 'sensitivity')} on {row['gold_positive']} and specificity "
        f"{_interval(row, 'specificity')} on {others} {kind}."
    )


def _interval(row: Any, name: str) -> str:
    ends = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    low, high = (f"{row[end]:.2f}" for end in ends)
    return f"{row[name]:.2f} [{low}, {high}]"
