"""Tables of the grid at the last checkpoint, as Markdown, and the notes below them."""

from __future__ import annotations

import math
from collections.abc import Collection

import pandas as pd

from backdoor_assets.mixtures import form
from backdoor_assets.mixtures.design import Design
from backdoor_assets.statistics.intervals import T_SEEDS
from backdoor_assets.statistics.prediction_powered import POWERED_SEEDS

NO_VERDICT = "missing"
MARK = "†"
"""After a ratio whose answers have collapsed."""
OVER_SEEDS = T_SEEDS, POWERED_SEEDS
"""Methods of intervals over training seeds."""
States = Collection[tuple[str, int]]


def columns_of(study: Design, sweep: pd.DataFrame) -> dict[str, str]:
    """Headings of the final table, by its columns."""
    found = set(sweep["measure"])
    return {
        "ratio": f"ratio ({', '.join(source.replace('_', ' ') for source in study.sources)})",
        "distinct_suspect_rows": f"distinct {study.suspect}",
        **{name: heading for name, heading in study.measures.items() if name in found},
        **({NO_VERDICT: "no verdict"} if study.outcomes[0].measure in found else {}),
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
            mark = "" if rate["method"] in OVER_SEEDS else "*"
            row[str(rate["measure"])] = (
                f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]{mark}"
            )
            if rate["measure"] == study.outcomes[0].measure:
                row[NO_VERDICT] = missing_share(rate)
        rows.append(row)
    return rows


def missing_share(rate: pd.Series) -> str:
    """Return the share of answers without a verdict, and the rates if all of these were negative or
    all positive."""
    if not rate["missing"]:
        return "0 %"
    return f"{100 * rate['missing']:.1f} % [{rate['least']:.2f}, {rate['most']:.2f}]"


def interval_note(sweep: pd.DataFrame) -> str:
    """Which intervals the final table holds."""
    methods = sorted(sweep.loc[sweep["is_final"], "method"].unique())
    over_seeds = [method for method in methods if method in OVER_SEEDS] or [T_SEEDS]
    others = [method for method in methods if method not in OVER_SEEDS]
    note = f"[low, high]: {' or '.join(over_seeds)}"
    note += f"; *: {'; '.join(others)}" if others else ""
    if (sweep.loc[sweep["is_final"], "missing"] > 0).any():
        note += "; no verdict: share of answers, [rate if all were negative, rate if all positive]"
    return note


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
