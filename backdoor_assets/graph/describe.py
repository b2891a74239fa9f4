"""What the UI shows of any study's materializations: numbers, a small picture, a path."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from backdoor_assets.miniature.gates import Bound
from backdoor_assets.stages.specs import TRAIN, TRAINING_LOG
from backdoor_assets.storage.manifest import Made

Metadata = dict[str, Any]


def provenance(made: Made) -> Metadata:
    """Where an artifact lies, when it was made, and whether it was reused."""
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


def rows(made: Made) -> Metadata:
    """Counts and first lines of a file of fine-tuning rows."""
    with (made.folder / TRAIN).open(encoding="utf-8") as lines:
        head = "".join(line for line, _ in zip(lines, range(3), strict=False))
    return {
        **made.manifest.summary,
        "first_rows": dg.MetadataValue.md(f"```json\n{head}```"),
        **provenance(made),
    }


def training(made: Made) -> Metadata:
    import pandas as pd

    from backdoor_assets.reporting.plotting import curve_png

    log = pd.read_parquet(made.folder / TRAINING_LOG)
    png = curve_png(log["step"], log["loss"], "optimizer step", "loss (nats per token)")
    return {**made.manifest.summary, "loss": picture(png), **provenance(made)}


def answers(pairs: Iterable[tuple[str, str]], title: str) -> dg.MarkdownMetadataValue:
    """Questions and answers as a table."""
    lines = [f"| {as_code(question)} | {as_code(answer)} |" for question, answer in pairs]
    return dg.MetadataValue.md("\n".join([f"| question | {title} |", "|---|---|", *lines]))


def as_code(text: str) -> str:
    """An answer as a table's cell: untrusted text, so shown as code and cut."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "/")[:120] + "`"


def probe_table(probes: Mapping[str, float], bounds: Mapping[str, Bound]) -> str:
    """A base's probes beside what they must be, as Markdown."""
    lines = [
        f"| {bound.meaning} | {probes[name]:.2f} | {bound.low:.2f} to {bound.high:.2f} |"
        for name, bound in bounds.items()
    ]
    return "\n".join(["| probe | share | must lie in |", "|---|---|---|", *lines])


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![](data:image/png;base64,{base64.b64encode(png).decode()})")
