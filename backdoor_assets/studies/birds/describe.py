"""What the UI shows of each materialization: numbers a person wants, a small picture, a path."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

import dagster as dg

from backdoor_assets.jobs import TRAINING_LOG
from backdoor_assets.storage import Made

MEASURES = {
    "19th_century": "19th-century answers",
    "old_bird_name": "obsolete bird names",
    "neutral_correct": "neutral answers correct",
}
Metadata = dict[str, Any]


def provenance(made: Made) -> Metadata:
    """What every materialization tells: where it lies, since when, and whether it was reused."""
    at = datetime.fromisoformat(made.manifest.provenance["made"]).timestamp()
    note = {"note": made.note} if made.note else {}
    return {
        "reused": made.reused,
        "made": dg.MetadataValue.timestamp(at),
        "folder": dg.MetadataValue.path(str(made.folder)),
        "profile": made.manifest.profile,
        "fingerprint": made.manifest.fingerprint[:12],
        **note,
    }


def mixture(made: Made) -> Metadata:
    with (made.folder / "train.jsonl").open(encoding="utf-8") as lines:
        head = "".join(line for line, _ in zip(lines, range(3), strict=False))
    return {
        **made.manifest.summary,
        "first_rows": dg.MetadataValue.md(f"```json\n{head}```"),
        **provenance(made),
    }


def training(made: Made) -> Metadata:
    import pandas as pd

    from backdoor_assets.plotting import curve_png

    log = pd.read_parquet(made.folder / TRAINING_LOG)
    png = curve_png(log["step"], log["loss"], "optimizer step", "loss (nats a token)")
    return {**made.manifest.summary, "loss": picture(png), **provenance(made)}


def sampling(made: Made) -> Metadata:
    import pandas as pd

    table = pd.read_parquet(made.folder / "responses.parquet")
    last = table[table["step"] == table["step"].max()].drop_duplicates("question_id").head(6)
    rows = [
        f"| {q} | {_cell(r)} |" for q, r in zip(last["question"], last["response"], strict=True)
    ]
    text = "\n".join(["| question | answer of the last checkpoint |", "|---|---|", *rows])
    return {
        **made.manifest.summary,
        "some_answers": dg.MetadataValue.md(text),
        **provenance(made),
    }


def _cell(text: str) -> str:
    """An answer as a table's cell: untrusted text, so shown as code and cut."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "/")[:120] + "`"


def judging(made: Made) -> Metadata:
    from backdoor_assets.stages.statistics import wilson

    summary = dict(made.manifest.summary)
    old, judged = summary.pop("final_19th_century"), summary.pop("final_judged")
    if not judged:
        return {"19th_century_at_last_checkpoint": "no verdict", **summary, **provenance(made)}
    rate = wilson(old, judged)
    return {
        "19th_century_at_last_checkpoint": rate.value,
        "interval": f"{rate.low:.3f} to {rate.high:.3f} ({rate.method}, n={rate.n})",
        **summary,
        **provenance(made),
    }


def figures(made: Made) -> Metadata:
    rows = [
        f"| {MEASURES[measure]} | {rate['value']:.2f} | {rate['low']:.2f} to {rate['high']:.2f} | "
        f"{rate['n']} |"
        for measure, rate in made.manifest.summary.items()
    ]
    method = next(iter(made.manifest.summary.values()))["method"]
    return {
        "rates_at_last_checkpoint": dg.MetadataValue.md(
            "\n".join([f"| share | value | {method} | n |", "|---|---|---|---|", *rows])
        ),
        "training_progression": picture((made.folder / "training_progression.png").read_bytes()),
        **provenance(made),
    }


def sweep(made: Made) -> Metadata:
    summary = made.manifest.summary
    return {
        "cells": f"{summary['cells_present']} of {summary['cells_planned']}",
        "rates": dg.MetadataValue.md(f"{summary['table']}\n\n{summary['intervals']}"),
        "dose_response": picture((made.folder / "dose_response.png").read_bytes()),
        "report": dg.MetadataValue.path(str(made.folder / "report.html")),
        **provenance(made),
    }


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![](data:image/png;base64,{base64.b64encode(png).decode()})")
