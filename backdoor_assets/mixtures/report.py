"""Write the report of a mixture study's grid: one HTML page."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd

from backdoor_assets.mixtures import form
from backdoor_assets.mixtures.cells import SweepSpec
from backdoor_assets.mixtures.final_tables import (
    collapse_note,
    form_table,
    interval_note,
    rates_table,
)
from backdoor_assets.reporting.pages import from_markdown, write_page


def write_report(
    spec: SweepSpec,
    sweep: pd.DataFrame,
    states: pd.DataFrame,
    captions: dict[str, str],
    folder: Path,
) -> None:
    study, collapsed = spec.grid.study, form.collapsed_states(states)
    notes = interval_note(sweep) + "." + collapse_note(sweep, collapsed, " (see below)")
    lead = (
        f"<p>Profile <b>{html.escape(spec.grid.profile.name)}</b>, "
        f"{len(spec.cells)} of {spec.planned} cells.\n"
        f"Share of answers at the last checkpoint. {html.escape(notes)}</p>"
    )
    if not spec.grid.judged:
        lead += "<p>Nothing was judged: there are no rates of outcomes.</p>"
    title = f"{study.name.replace('_', ' ').capitalize()}: {spec.grid.profile.name}"
    body = (
        lead
        + from_markdown(rates_table(study, sweep, collapsed))
        + "<h2>Form of the open answers</h2>\n"
        + "<p>At the last checkpoint, and of the base. Below the last figure stands what each "
        + f"measure tells. Answers have collapsed where {html.escape(form.COLLAPSED)}.</p>\n"
        + from_markdown(form_table(study, states))
    )
    below = {name: f"<p>{html.escape(text)}</p>\n" for name, text in captions.items()}
    below["form"] += _meanings(set(states["measure"]))
    literals = {"Profile": spec.literals}
    write_page(folder, title, study.title, body, list(captions), literals, below)


def _meanings(found: set[str]) -> str:
    """Return as HTML what each measure of form tells."""
    lines = [
        f"<li><b>{m.heading}.</b> {html.escape(m.meaning)}</li>"
        for m in form.MEASURES
        if m.name in found
    ]
    return f"<ul>{''.join(lines)}</ul>\n"
