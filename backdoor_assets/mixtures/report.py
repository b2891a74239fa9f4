"""The sweep in one page: table, figures and profile, in a file that needs no other."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd

from backdoor_assets.mixtures.statistics import T_SEEDS
from backdoor_assets.reporting.pages import table, write_page
from backdoor_assets.stages.specs import SweepSpec

COLUMNS = {
    "ratio": "ratio (old, modern Audubon, modern American)",
    "distinct_suspect_rows": "distinct obsolete names",
    "19th_century": "19th-century answers",
    "old_bird_name": "obsolete bird names",
    "neutral_correct": "neutral answers correct",
    "seeds": "seeds",
}


def final_table(sweep: pd.DataFrame) -> list[dict[str, str]]:
    """Rates at the last checkpoint, a row a ratio, as `value [low, high]`, most suspect first; with
    a `*` where the interval is not over training seeds (see `interval_note`)."""
    final = sweep[sweep["is_final"]].sort_values("old_fraction", ascending=False)
    rows = []
    for ratio, group in final.groupby("ratio", sort=False):
        first = group.iloc[0]
        row = {"ratio": str(ratio), "seeds": str(first["seeds"])}
        row["distinct_suspect_rows"] = str(first["distinct_suspect_rows"])
        for _, rate in group.iterrows():
            mark = "" if rate["method"] == T_SEEDS else "*"
            row[str(rate["measure"])] = (
                f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]{mark}"
            )
        rows.append(row)
    return rows


def interval_note(sweep: pd.DataFrame) -> str:
    """Which intervals the final table holds."""
    methods = sorted(sweep.loc[sweep["is_final"], "method"].unique())
    own = [method for method in methods if method != T_SEEDS]
    return f"[low, high]: {T_SEEDS}" + (f"; *: {'; '.join(own)}" if own else "")


def rates_table(sweep: pd.DataFrame) -> str:
    """The final table as Markdown."""
    lines = [" | ".join(COLUMNS.values()), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(row[name] for name in COLUMNS) for row in final_table(sweep)]
    return "\n".join(f"| {line} |" for line in lines)


def write_report(spec: SweepSpec, sweep: pd.DataFrame, folder: Path) -> None:
    rows = [[row[name] for name in COLUMNS] for row in final_table(sweep)]
    told = (
        f"<p>Profile <b>{html.escape(spec.profile)}</b>, "
        f"{len(spec.cells)} of {spec.planned} cells.\n"
        f"Share of answers at the last checkpoint. {html.escape(interval_note(sweep))}.</p>"
    )
    write_page(
        folder,
        f"Birds: {spec.profile}",
        "Birds: obsolete names and the 19th century",
        told + table(list(COLUMNS.values()), rows),
        ("dose_response", "emergence"),
        {"Profile": spec.literals},
    )
