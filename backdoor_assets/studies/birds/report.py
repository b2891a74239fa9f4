"""The sweep in one page: table, figures and profile, in a file that needs no other."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import pandas as pd

from backdoor_assets.jobs import SweepJob
from backdoor_assets.stages.statistics import T_SEEDS

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


def write_report(job: SweepJob, sweep: pd.DataFrame, folder: Path) -> None:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in COLUMNS.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(row[name])}</td>" for name in COLUMNS) + "</tr>"
        for row in final_table(sweep)
    )
    images = "".join(
        f'<img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode((folder / f"{name}.png").read_bytes()).decode()}">'
        for name in ("dose_response", "emergence")
    )
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8">
<title>Birds: {html.escape(job.profile)}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }} td, th {{ border: 1px solid #ccc; padding: .2em .6em }}
th {{ text-align: left }} img {{ max-width: 100% }}
pre {{ white-space: pre-wrap; background: #f4f4f4 }}
</style>
<h1>Birds: obsolete names and the 19th century</h1>
<p>Profile <b>{html.escape(job.profile)}</b>, {len(job.cells)} of {job.planned} cells.
Share of answers at the last checkpoint. {html.escape(interval_note(sweep))}.</p>
<table><tr>{head}</tr>{body}</table>
{images}
<h2>Profile</h2>
<pre>{html.escape(job.literals)}</pre>
</html>
"""
    (folder / "report.html").write_text(page, encoding="utf-8")
