"""How far two sets of verdicts on the same answers agree: a table, a text, a confusion table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.design import Design
from backdoor_assets.records import BadInput, Rubric
from backdoor_assets.reporting.text import aligned
from backdoor_assets.statistics.agreement import (
    Agreement,
    agreement_of_labels,
    agreement_of_ratings,
    confusion,
)

VERSION = "1"
"""Raise it when the same verdicts would give other tables."""
SUFFIXES = "", "_second"
"""Of the columns of verdicts of both sides."""
VERDICTS, TABLE, TEXT, FIGURE = "verdicts.parquet", "agreement.parquet", "agreement.md", "confusion"
HEADLINE = {True: ("share equal", "kappa"), False: ("mean difference", "weighted kappa")}
"""Measures of the text, for labels and for ratings; the table has alpha too."""
KAPPAS = tuple(measures[1] for measures in HEADLINE.values())


def write(
    study: Design, profile: str, names: tuple[str, str], answers: pd.DataFrame, folder: Path
) -> dict[str, Any]:
    """Write the verdicts, the table of agreement, its text and the figure into `folder`.

    `answers` has the columns question_id, question and response, for labelled answers part ("held
    out" or "tuning") and case, and per rubric its column of the first and, with "_second", of the
    second side. Returns the number of answers and the agreement by rubric.
    """
    answers.to_parquet(folder / VERDICTS, index=False)
    rubrics = [rubric for rubric in study.rubrics if _both(rubric, answers)]
    if not rubrics:
        raise BadInput(f"no answer has a verdict by both: {names[0]}, and {names[1]}")
    table = agreement_table(rubrics, answers)
    table.to_parquet(folder / TABLE, index=False)
    (folder / TEXT).write_text(
        _text(f"{study.name}, profile {profile}", names, rubrics, answers, table), encoding="utf-8"
    )
    from backdoor_assets.mixtures.judging.agreement_figure import draw_confusion

    choices = [rubric for rubric in rubrics if rubric.options]
    counts = {r.column: confusion(*_sides(r, answers), r.options) for r in choices}
    whole = table[(table["part"] == "all") & (table["by"] == "all")]
    shown = whole[whole["measure"].isin(KAPPAS)]
    kappas = {str(row["rubric"]): f"kappa {cell(row)}" for row in shown.to_dict("records")}
    draw_confusion(study, profile, names, counts, kappas, folder, FIGURE)
    return {
        "answers": len(answers),
        "agreement": {
            row["rubric"]: None if pd.isna(row["value"]) else row["value"]
            for row in shown.to_dict("records")
        },
    }


def agreement_table(rubrics: Sequence[Rubric], answers: pd.DataFrame) -> pd.DataFrame:
    """Return one row per rubric, part, group and measure: rubric, part ("all", "held out",
    "tuning"), by ("all", "question_id", "case", or the choice whose verdict of the second side
    makes the groups), group, measure, value, low, high, answers, clusters, unit.

    `unit` names what intervals are over: questions, where a group has answers to several, or else
    answers. Within a group of one label kappa is 0 or undefined: read the share of equal verdicts.
    """
    rows = []
    for part, inside in _parts(answers):
        for by, group, chosen in _groups(rubrics, inside):
            for rubric in rubrics:
                for found, unit in _agreement(rubric, chosen):
                    place = {"rubric": rubric.column, "part": part, "by": by, "group": group}
                    rows.append({**place, **vars(found), "unit": unit})
    return pd.DataFrame(rows)


def _parts(answers: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "all", answers
    if "part" in answers:
        for part, inside in answers.groupby("part"):
            yield str(part), inside


def _groups(
    rubrics: Sequence[Rubric], answers: pd.DataFrame
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield "all", "all", answers
    choices = [rubric.column for rubric in rubrics if rubric.options]
    columns = {"question_id": "question_id", **{c: c + SUFFIXES[1] for c in choices}}
    if "case" in answers:
        columns["case"] = "case"
    for by, column in columns.items():
        known = answers[answers[column].fillna("") != ""]
        for group, chosen in known.groupby(column, observed=True):
            yield by, str(group), chosen


def _agreement(rubric: Rubric, answers: pd.DataFrame) -> Iterator[tuple[Agreement, str]]:
    sides = _sides(rubric, answers)
    several = answers["question_id"].nunique() > 1
    compare = agreement_of_labels if rubric.options else agreement_of_ratings
    clusters = answers["question_id"].tolist() if several else None
    for found in compare(sides, clusters=clusters):
        yield found, "questions" if several else "answers"


def _text(
    where: str,
    names: tuple[str, str],
    rubrics: Sequence[Rubric],
    answers: pd.DataFrame,
    table: pd.DataFrame,
) -> str:
    first, second = names
    lines = [
        f"# Agreement of judges: {where}",
        "",
        f"First: {first}. Second: {second}. {len(answers)} answers to "
        f"{answers['question_id'].nunique()} questions; [low, high]: 95 % by the bootstrap, over "
        "questions where there are several, or else over answers.",
    ]
    for part, _ in _parts(answers):
        inside = table[table["part"] == part]
        heading = {"all": "All answers", "tuning": "Tuning split", "held out": "Held-out split"}
        lines += ["", f"## {heading[part]}", "", *_measures(rubrics, inside)]
    whole = table[table["part"] == "all"]
    choices = [rubric for rubric in rubrics if rubric.options]
    for by in [name for name in whole["by"].unique() if name != "all"]:
        what = {"question_id": "question", "case": "case"}.get(by, f"{by} (second)")
        lines += ["", f"## By {what}", "", *_by_group(rubrics, whole[whole["by"] == by], what)]
    for rubric in choices:
        counts = confusion(*_sides(rubric, answers), rubric.options)
        lines += ["", f"## Confusion table of {rubric.column} (rows: first, columns: second)", ""]
        rows = zip(map(str, counts.index), counts.to_numpy(), strict=True)
        lines += _markdown(["", *counts.columns], [[label, *map(str, c)] for label, c in rows])
    return "\n".join(lines) + "\n"


def _measures(rubrics: Sequence[Rubric], table: pd.DataFrame) -> list[str]:
    rows = []
    for rubric in rubrics:
        whole = table[(table["by"] == "all") & (table["rubric"] == rubric.column)]
        found = {str(row["measure"]): row for row in whole.to_dict("records")}
        plain, kappa = HEADLINE[bool(rubric.options)]
        answers = str(found["alpha"]["answers"])
        cells = f"{plain} {cell(found[plain])}", f"{kappa} {cell(found[kappa])}"
        rows.append([rubric.column, *cells, cell(found["alpha"]), answers])
    return _markdown(["rubric", "difference", "kappa", "alpha", "answers"], rows)


def _by_group(rubrics: Sequence[Rubric], table: pd.DataFrame, what: str) -> list[str]:
    rows = []
    for group, inside in table.groupby("group", sort=False):
        cells = []
        for rubric in rubrics:
            own = inside[inside["rubric"] == rubric.column].to_dict("records")
            found = {str(row["measure"]): row for row in own}
            # Within one label kappa says nothing.
            measure = HEADLINE[bool(rubric.options)][what == "question"]
            cells.append(cell(found[measure]))
        rows.append([str(group), *cells, str(inside["answers"].max())])
    kinds = [
        f"{rubric.column} ({HEADLINE[bool(rubric.options)][what == 'question']})"
        for rubric in rubrics
    ]
    return _markdown([what, *kinds, "answers"], rows)


def cell(row: dict[str, Any]) -> str:
    """Return the value of a row of the table with its interval, as text."""
    if pd.isna(row["value"]):
        return "undefined" if row["answers"] else "no verdicts by both"
    digits = 1 if row["measure"] == "mean difference" else 2
    value, low, high = (f"{row[name]:.{digits}f}" for name in ("value", "low", "high"))
    return value if pd.isna(row["low"]) else f"{value} [{low}, {high}]"


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def for_terminal(text: str) -> str:
    """Return the text with the columns of each of its tables padded."""
    blocks = groupby(text.splitlines(), lambda line: line.startswith("|"))
    joined = ((table, "\n".join(lines)) for table, lines in blocks)
    return "\n".join(aligned(block) if table else block for table, block in joined)


def _both(rubric: Rubric, answers: pd.DataFrame) -> bool:
    """Whether any answer has a verdict of both sides."""
    columns = [rubric.column + suffix for suffix in SUFFIXES]
    return bool(answers[columns].notna().all(axis=1).any())


def _sides(rubric: Rubric, answers: pd.DataFrame) -> tuple[list[Any], list[Any]]:
    first, second = (
        [None if pd.isna(value) else value for value in answers[rubric.column + suffix]]
        for suffix in SUFFIXES
    )
    return first, second
