"""What the grid says in tables for a reader: differences, half-effect doses, emergence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.design import Design
from backdoor_assets.mixtures.effects import BASE, CONTROL, controls
from backdoor_assets.records import Ratio
from backdoor_assets.reporting.pages import Table

AXES = {"fraction": "share of rows", "count": "distinct rows"}
FITS = {"curve": "Hill curve", "monotone": "monotone"}
MOMENTS = {
    "onset": "leaves the base at step",
    "half": "half of the change at step",
    "lag": "steps after the narrow behaviour",
}


def effect_tables(
    study: Design, contrasts: pd.DataFrame, doses: pd.DataFrame, emergence: pd.DataFrame
) -> list[Table]:
    """Return the tables. One without rows says why."""
    return [
        control_table(study, contrasts),
        base_table(study, contrasts),
        dose_table(study, doses),
        emergence_table(study, emergence),
    ]


def control_table(study: Design, contrasts: pd.DataFrame) -> Table:
    """Return each ratio's difference from the control at the last checkpoint, by outcome."""
    rows = contrasts[contrasts["against"] == CONTROL]
    table = [
        [
            heading,
            row["ratio"],
            _difference(row),
            _p(row["p_holm"]),
            f"{row['detectable']:.2f}" if row["detectable"] < 1 else "none",
            str(row["seeds"]),
        ]
        for measure, heading in _shown(study, rows).items()
        for row in _most_suspect_first(rows[rows["measure"] == measure])
    ]
    named = controls(contrasts["ratio"])
    notes = [
        *_methods(rows),
        "p is adjusted for the number of ratios (Holm); intervals are not adjusted.",
        "Smallest visible: the smallest true difference that a grid of this spread finds in 80 % "
        "of repetitions, without adjustment. Which effects remain possible is what the interval "
        "says.",
    ]
    if not named:
        notes = [f"No ratio of the grid is without {study.suspect}: there is no control."]
    elif not table:
        notes = [f"No ratio shares a finished training seed with the control, {named[0]}."]
    return Table(
        f"Difference from the control{f' {named[0]}' if named else ''}, at the last checkpoint",
        ["share", "ratio", "difference", "p (Holm)", "smallest visible", "seeds"],
        table,
        notes,
    )


def base_table(study: Design, contrasts: pd.DataFrame) -> Table:
    """Return each ratio's difference from the base at its last checkpoint, by outcome."""
    rows = contrasts[contrasts["against"] == BASE]
    rows = rows[rows["step"] == rows.groupby(["measure", "ratio"])["step"].transform("max")]
    table = [
        [heading, row["ratio"], _difference(row), _p(row["p_holm"]), str(row["seeds"])]
        for measure, heading in _shown(study, rows).items()
        for row in _most_suspect_first(rows[rows["measure"] == measure])
    ]
    return Table(
        "Difference from the base model, at the last checkpoint",
        ["share", "ratio", "difference", "p (Holm)", "seeds"],
        table,
        [
            *_methods(rows),
            "p is adjusted for the number of checkpoints of a ratio (Holm); intervals are not.",
        ],
    )


def dose_table(study: Design, doses: pd.DataFrame) -> Table:
    """Return the doses at which half of the effect is reached."""
    table = [
        [heading, AXES[row["axis"]], FITS[row["fit"]], half_dose(row)]
        for measure, heading in study.measures.items()
        for row in _records(doses[doses["measure"] == measure])
    ]
    notes = [
        "The effect is the difference between the largest and the smallest dose of the grid. Hill "
        "curve: rate = lowest + effect x^h (1 + c) / (x^h + c), least squares; the monotone fit "
        "assumes only that the rate moves in one direction. [95 %, by simulation from the errors "
        "of the rates: over training seeds, or over answers where there is one seed.] Mixtures "
        "that use all distinct rows are one dose of distinct rows, although their shares differ.",
        "A share that is absent has fewer than three doses, or no difference between the largest "
        "and the smallest one (95 %), and so no half of it.",
    ]
    return Table(
        f"Dose of {study.suspect} at which half of the effect is reached",
        ["share", "dose", "fit", "half-effect dose"],
        table,
        notes if table else notes[1:],
    )


def half_dose(row: Mapping[str, Any]) -> str:
    """Return a half-effect dose with its interval, in % of the rows or in rows."""
    value, low, high = (row[name] for name in ("value", "low", "high"))
    if row["axis"] == "fraction":
        return f"{100 * value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def emergence_table(study: Design, emergence: pd.DataFrame) -> Table:
    """Return when each measure leaves the base, and when half of its change is reached."""
    table = []
    for measure, heading in study.measures.items():
        of_measure = emergence[emergence["measure"] == measure]
        for ratio in _most_suspect(of_measure["ratio"]):
            found = of_measure[of_measure["ratio"] == ratio].set_index("moment")
            if (found["runs"] > 0).any():
                cells = [moment(found.loc[n]) if n in found.index else "-" for n in MOMENTS]
                table.append([heading, ratio, *cells])
    notes = [
        "Mean over training seeds [95 %, t over seeds; none for a single run, or where all runs "
        "have the same step], read in every training run by itself. A run leaves the base at the "
        "first checkpoint whose difference from the base is significant at 5 %, corrected for the "
        "number of checkpoints; so onsets are as coarse as the checkpoints. Half of the change is "
        "read between checkpoints from a monotone fit, from its first to its last value, in runs "
        "whose last checkpoint differs from the base (5 % do so by chance). 2 of 3: the other runs "
        f"show no such step. Narrow behaviour: {study.narrow.column}.",
    ]
    if not table:
        notes = ["No rate differs from the base's in any run."]
    return Table("When it emerges", ["share", "ratio", *MOMENTS.values()], table, notes)


def moment(row: pd.Series) -> str:
    """Return a step with its interval, and in how many runs it was seen unless in all."""
    if row["runs"] == 0:
        return "-" if row.name == "lag" else "never"
    text = str(round(row["value"]))
    if not pd.isna(row["low"]) and row["low"] < row["high"]:
        text += f" [{row['low']:.0f}, {row['high']:.0f}]"
    return text if row["runs"] == row["of"] else f"{text} ({row['runs']} of {row['of']} runs)"


def headline(study: Design, doses: pd.DataFrame, emergence: pd.DataFrame) -> str:
    """Return in words the first outcome's half-effect dose, and when it changes at the ratio with
    most suspect rows; "" if there is neither."""
    measure = study.outcomes[0].measure
    parts = []
    own = doses[(doses["measure"] == measure) & (doses["axis"] == "fraction")].set_index("fit")
    for fit, name in FITS.items():
        if fit in own.index:
            dose = half_dose({"axis": "fraction", **own.loc[fit].to_dict()})
            parts.append(f"half of the effect is reached at {dose} of {study.suspect} ({name})")
            break
    rows = emergence[emergence["measure"] == measure]
    if len(rows):
        ratio = _most_suspect(rows["ratio"])[0]
        found = rows[rows["ratio"] == ratio].set_index("moment")
        if "half" in found.index and found.loc["half", "runs"]:
            parts.append(f"at {ratio}, half of the change at step {moment(found.loc['half'])}")
        if "lag" in found.index and found.loc["lag", "runs"]:
            later = moment(found.loc["lag"])
            parts.append(f"{later} steps later than half of the change in {study.narrow.column}")
    if not parts:
        return ""
    return f"{study.measures[measure]}: {'; '.join(parts)}. [95 %]"


def _shown(study: Design, rows: pd.DataFrame) -> dict[str, str]:
    found = set(rows["measure"])
    return {measure: text for measure, text in study.measures.items() if measure in found}


def _difference(row: Mapping[str, Any]) -> str:
    return f"{row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _methods(rows: pd.DataFrame) -> list[str]:
    return [f"[low, high]: {'; '.join(sorted(set(rows['method'])))}."] if len(rows) else []


def _most_suspect(ratios: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(ratios), key=lambda key: -Ratio.parse(key).suspect_fraction)


def _most_suspect_first(rows: pd.DataFrame) -> list[dict[str, Any]]:
    order = {ratio: at for at, ratio in enumerate(_most_suspect(rows["ratio"]))}
    return _records(rows.sort_values("ratio", key=lambda column: column.map(order)))


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]
