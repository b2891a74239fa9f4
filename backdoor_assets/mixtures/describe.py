"""What the UI shows of the birds study's own materializations."""

from __future__ import annotations

import dagster as dg

from backdoor_assets.graph.describe import Metadata, as_code, picture, provenance
from backdoor_assets.storage.artifact import Made

MEASURES = {
    "19th_century": "19th-century answers",
    "old_bird_name": "obsolete bird names",
    "neutral_correct": "neutral answers correct",
}


def sampling(made: Made) -> Metadata:
    import pandas as pd

    table = pd.read_parquet(made.folder / "responses.parquet")
    last = table[table["step"] == table["step"].max()].drop_duplicates("question_id").head(6)
    rows = [
        f"| {q} | {as_code(r)} |" for q, r in zip(last["question"], last["response"], strict=True)
    ]
    text = "\n".join(["| question | answer of the last checkpoint |", "|---|---|", *rows])
    return {
        **made.manifest.summary,
        "some_answers": dg.MetadataValue.md(text),
        **provenance(made),
    }


def judging(made: Made) -> Metadata:
    from backdoor_assets.mixtures.statistics import wilson

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
