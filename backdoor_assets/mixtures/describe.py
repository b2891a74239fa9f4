"""What the UI shows of a mixture study's materializations: numbers, samples, pictures."""

from __future__ import annotations

import dagster as dg

from backdoor_assets.graph.describe import Metadata, answers, picture, provenance
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.cut_answers import cut_metadata
from backdoor_assets.stages.coherence import COHERENCE
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.manifest import Made


def sampling(made: Made) -> Metadata:
    import pandas as pd

    table = pd.read_parquet(made.folder / RESPONSES)
    last = table[table["step"] == table["step"].max()].drop_duplicates("question_id").head(6)
    pairs = zip(last["question_id"], last["response"], strict=True)
    return {
        **made.manifest.summary,
        **cut_metadata(made),
        "some_answers": answers(pairs, "answer of the last checkpoint"),
        **provenance(made),
    }


def coherence(made: Made) -> Metadata:
    import pandas as pd

    table = pd.read_parquet(made.folder / COHERENCE)
    last = table[table["step"] == table["step"].max()].sort_values("log_likelihood")
    pairs = zip(last["question_id"], last["response"], strict=True)
    return {
        **made.manifest.summary,
        "least_likely": answers(list(pairs)[:6], "least likely answer of the last checkpoint"),
        **provenance(made),
    }


def judging(made: Made) -> Metadata:
    """Of each outcome its share at the last checkpoint as a number, which the UI plots over the
    partitions."""
    from backdoor_assets.statistics.intervals import wilson

    summary = dict(made.manifest.summary)
    shares: Metadata = {}
    final = summary.pop("final", {})
    if "answers_drawn" in summary:  # their share is not the rate, which figures and sweep have
        final = {}
    for measure, (hits, judged) in final.items():
        if not judged:
            shares[f"{measure}_at_last_checkpoint"] = "no verdict"
            continue
        rate = wilson(hits, judged)
        shares[f"{measure}_at_last_checkpoint"] = rate.value
        shares[f"{measure}_interval"] = (
            f"{rate.low:.3f} to {rate.high:.3f} ({rate.method}, n={rate.n})"
        )
    return {**shares, **summary, **provenance(made)}


def figures(grid: Grid, made: Made) -> Metadata:
    rates = dict(made.manifest.summary)
    collapsed = rates.pop("collapsed")
    rows = [
        f"| {grid.study.measures[measure]} | {rate['value']:.2f} | {rate['low']:.2f} to "
        f"{rate['high']:.2f} | {rate['n']} |"
        for measure, rate in rates.items()
    ]
    method = next(iter(rates.values()))["method"]
    return {
        **{measure: float(rate["value"]) for measure, rate in rates.items()},
        "rates_at_last_checkpoint": dg.MetadataValue.md(
            "\n".join([f"| share | value | {method} | n |", "|---|---|---|---|", *rows])
        ),
        "collapsed_checkpoints": ", ".join(map(str, collapsed)) or "none",
        "training_progression": picture((made.folder / "training_progression.png").read_bytes()),
        **provenance(made),
    }


def sweep(made: Made) -> Metadata:
    summary = made.manifest.summary
    return {
        "cells": f"{summary['cells_present']} of {summary['cells_planned']}",
        "cells_present": int(summary["cells_present"]),
        "rates": dg.MetadataValue.md(f"{summary['table']}\n\n{summary['intervals']}"),
        **({"corrected": summary["corrected"]} if summary.get("corrected") else {}),
        "headline": summary["headline"] or "no effect",
        "form_of_answers": dg.MetadataValue.md(summary["form"]),
        "dose_response": picture((made.folder / summary["main_figure"]).read_bytes()),
        "form": picture((made.folder / "form.png").read_bytes()),
        "report": dg.MetadataValue.path(str(made.folder / "report.html")),
        **provenance(made),
    }
