"""What the grid says in tables for a reader: differences, half-effect doses, emergence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.design import Design
from backdoor_assets.mixtures.effects import BASE, CONTROL
from backdoor_assets.records import Ratio
from backdoor_assets.reporting.pages import Table

AXES = {"fraction": "share of rows", "count": "distinct rows"}
FITS = {"monotone": "monotone", "curve": "Hill curve"}
MOMENTS = {
    "onset": "leaves the base at step",
    "half": "half of the change at step",
    "lag": "steps after the narrow behaviour",
}
_DETECTABLE = (
    "Smallest visible: the smallest true difference that a grid of this spread finds in 80 % of "
    "repetitions. Where the interval holds zero, no effect was found; effects smaller than that "
    "cannot be excluded."
)


def effect_tables(
    study: Design, contrasts: pd.DataFrame, doses: pd.DataFrame, emergence: pd.DataFrame
) -> list[Table]:
    """Return the tables that have rows."""
    found = [
        control_table(study, contrasts),
        base_table(study, contrasts),
        dose_table(study, doses),
        emergence_table(study, emergence),
    ]
    return [table for table in found if table.rows]


def control_table(study: Design, contrasts: pd.DataFrame) -> Table:
    """Return each ratio's difference from the control at the last checkpoint, by outcome."""
    rows = contrasts[contrasts["against"] == CONTROL]
    shown = _shown(study, rows)
    table = [
        [
            heading,
            row["ratio"],
            _difference(row),
            _p(row["p_holm"]),
            f"{row['detectable']:.2f}",
            str(row["seeds"]),
        ]
        for measure, heading in shown.items()
        for row in _most_suspect_first(rows[rows["measure"] == measure])
    ]
    return Table(
        f"Difference from the mixture without {study.suspect}, at the last checkpoint",
        ["share", "ratio", "difference", "p (Holm)", "smallest visible", "seeds"],
        table,
        [*_methods(rows), "p: adjusted for the number of ratios (Holm).", _DETECTABLE],
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
        [*_methods(rows), "p: adjusted for the number of checkpoints of a ratio (Holm)."],
    )


def dose_table(study: Design, doses: pd.DataFrame) -> Table:
    """Return the doses at which half of the effect is reached."""
    table = [
        [
            study.measures[row["measure"]],
            AXES[row["axis"]],
            FITS[row["fit"]],
            half_dose(row),
        ]
        for measure in study.measures
        for row in _records(doses[doses["measure"] == measure])
    ]
    return Table(
        f"Dose of {study.suspect} at which half of the effect is reached",
        ["share", "dose", "fit", "half-effect dose"],
        table,
        [
            "The effect is the difference between the largest and the smallest dose of the grid. "
            "Hill curve: rate = lowest + effect x^h (1 + c) / (x^h + c), least squares; the "
            "monotone fit assumes only that the rate moves in one direction. [95 % over training "
            "seeds, by simulation from the rates' errors.] A share that is absent has no clear "
            "effect, and so no half of it. Mixtures that use all distinct rows are one dose of "
            "distinct rows, although their shares differ.",
        ],
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
            cells = [moment(found.loc[name]) if name in found.index else "-" for name in MOMENTS]
            if (found["runs"] > 0).any():
                table.append([heading, ratio, *cells])
    return Table(
        "When it emerges",
        ["share", "ratio", *MOMENTS.values()],
        table,
        [
            "Mean over training seeds [95 %, t over seeds], read in every training run by itself. "
            "A run leaves the base at the first checkpoint whose difference from the base is "
            "significant at 5 %, corrected for the number of checkpoints; so onsets are as coarse "
            "as the checkpoints. Half of the change is read between checkpoints from a monotone "
            "fit, in runs whose last checkpoint differs from the base. 2 of 3: the other runs show "
            f"no such step. Narrow behaviour: {study.narrow.column}.",
        ],
    )


def moment(row: pd.Series) -> str:
    """Return a step with its interval, and in how many runs it was seen unless in all."""
    if row["runs"] == 0:
        return "-" if row.name == "lag" else f"never ({row['of']} runs)"
    text = f"{row['value']:.0f}"
    if not pd.isna(row["low"]):
        text += f" [{row['low']:.0f}, {row['high']:.0f}]"
    return text if row["runs"] == row["of"] else f"{text} ({row['runs']} of {row['of']} runs)"


def headline(study: Design, doses: pd.DataFrame, emergence: pd.DataFrame) -> str:
    """Return one sentence on the first outcome: its half-effect dose, and when it rises."""
    measure = study.outcomes[0].measure
    parts = []
    own = doses[(doses["measure"] == measure) & (doses["axis"] == "fraction")]
    found = own.set_index("fit")
    for fit in ("curve", "monotone"):
        if fit in found.index:
            dose = half_dose({"axis": "fraction", **found.loc[fit].to_dict()})
            parts.append(f"half of the effect at {dose} {study.suspect} ({FITS[fit]})")
            break
    rows = emergence[emergence["measure"] == measure]
    if len(rows):
        strongest = rows[rows["ratio"] == _most_suspect(rows["ratio"])[0]].set_index("moment")
        if "half" in strongest.index and strongest.loc["half", "runs"]:
            parts.append(f"half of the rise at step {moment(strongest.loc['half'])}")
        if "lag" in strongest.index and strongest.loc["lag", "runs"]:
            after = moment(strongest.loc["lag"])
            parts.append(f"lag behind the {study.narrow.label}: {after} steps")
    if not parts:
        return ""
    return f"{study.measures[measure]}: {', '.join(parts)}. [95 % over training seeds]"


def _shown(study: Design, rows: pd.DataFrame) -> dict[str, str]:
    found = set(rows["measure"])
    return {measure: text for measure, text in study.measures.items() if measure in found}


def _difference(row: Mapping[str, Any]) -> str:
    value, low, high = (row[name] for name in ("value", "low", "high"))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


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
