"""Write the report of a mixture study's grid: one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from backdoor_assets.mixtures import form
from backdoor_assets.mixtures.cells import SweepSpec
from backdoor_assets.mixtures.judging.judge_columns import judge_note
from backdoor_assets.mixtures.report import design, provenance
from backdoor_assets.mixtures.report.examples import example_answers
from backdoor_assets.mixtures.report.final_tables import (
    collapse_note,
    form_table,
    interval_note,
    rates_table,
)
from backdoor_assets.reporting.pages import Block, Figure, Section, Table, write_page

FORM_FIGURE = "form"


def write_report(
    spec: SweepSpec,
    sweep: pd.DataFrame,
    states: pd.DataFrame,
    captions: Mapping[str, str],
    folder: Path,
    tables: Sequence[Table] = (),
    limits: Sequence[str] = (),
) -> Path:
    """Write report.html into `folder`, which holds the figures that `captions` names.

    `tables` follow the final rates, in their order; `limits` are sentences that follow those that
    hold for every grid. Returns the path.
    """
    study, collapsed = spec.grid.study, form.collapsed_states(states)
    notes = (
        interval_note(sweep),
        collapse_note(sweep, collapsed, " (see the form of answers)"),
        judge_note(sweep),
        *design.judge_agreement(spec),
    )
    rates = Table.from_markdown(
        "Share of answers at the last checkpoint",
        rates_table(study, sweep, collapsed),
        [note.strip() for note in notes if note],
    )
    finished = provenance.finished(spec)
    results: list[Block] = [rates, *tables]
    if not spec.grid.judged:
        results.insert(0, "Nothing was judged: there are no rates of outcomes.")
    figures = [Figure(name, text) for name, text in captions.items() if name != FORM_FIGURE]
    examples = example_answers(spec)
    sections = [
        Section("Question", design.question(study)),
        Section("Results", results),
        Section("Figures", figures),
        Section("Example answers", [examples] if examples else []),
        Section("Form of the open answers", _form(spec, states, captions)),
        Section("Design", design.design(spec)),
        Section("Grid coverage", design.coverage(spec)),
        Section("Limits", design.limits(spec, limits)),
        Section("Costs", provenance.costs(spec, finished)),
        Section("Provenance", provenance.provenance(spec, finished)),
        Section("Reproduce", provenance.reproduce(spec)),
    ]
    name = spec.grid.profile.name
    lead = f"Profile {name}, {len(spec.cells)} of {spec.planned} cells."
    title = f"{study.name.replace('_', ' ').capitalize()}: {name}"
    return write_page(folder, title, study.title, lead, sections)


def _form(spec: SweepSpec, states: pd.DataFrame, captions: Mapping[str, str]) -> list[Block]:
    """Return the table and the figure of forms, with what each measure tells."""
    found = set(states["measure"])
    meanings = {m.heading: m.meaning for m in form.MEASURES if m.name in found}
    lead = (
        "Whether the answers are still answers. Fine-tuning on bare names can turn them into short "
        f"titles, of which a judge's verdict says little. Answers have collapsed where "
        f"{form.COLLAPSED}."
    )
    table = Table.from_markdown(
        "Form at the last checkpoint, and of the base", form_table(spec.grid.study, states)
    )
    if FORM_FIGURE not in captions:
        return [lead, table]
    return [lead, table, Figure(FORM_FIGURE, captions[FORM_FIGURE], meanings)]
