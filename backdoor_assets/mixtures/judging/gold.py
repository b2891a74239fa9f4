"""Answers whose right verdicts are known, against which a judge is measured and tuned.

Two formats are read: the JSON Lines that this project ships, and a CSV table of a user's own human
labels. `bird_datasets/gold/README.md` describes both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backdoor_assets.mixtures.design import Design
from backdoor_assets.records import BadInput, GoldAnswer, Rubric
from backdoor_assets.storage.csv_rows import read_csv
from backdoor_assets.storage.hashing import digest
from backdoor_assets.storage.rows import read_objects

HELD_OUT = 3
"""One answer in so many of a question and a class is held out: no judge may be tuned on it."""

_REMEDY = "Write answers and their labels into it, as bird_datasets/gold/README.md describes."
_KEYS = ("id", "question_id", "question", "answer", "case")


def read_gold(path: Path, study: Design) -> list[GoldAnswer]:
    """Read labelled answers from a `.jsonl` or a `.csv` file, in the file's order.

    Raises BadInput that names file, line and column for a question that the study does not ask, an
    option that a rubric does not have, a rating outside 0-100, an empty answer, an answer that
    occurs twice for a question, an id that occurs twice, and an answer without labels.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise BadInput(f"{path}: name a file that ends in .jsonl or .csv")
    rows = read_csv(path, _REMEDY) if path.suffix == ".csv" else _json_rows(path)
    answers: list[GoldAnswer] = []
    seen: dict[tuple[str, ...], str] = {}
    for number, (where, row) in enumerate(rows, 1):
        gold = _answer(row, where, f"{path.stem}-{number}", study)
        words = " ".join(gold.answer.split())
        for column, key in ("answer", (gold.question, words)), ("id", (gold.id,)):
            if key in seen:
                raise BadInput(
                    f"{where}, column {column!r}: {key[-1][:60]!r} occurs before in {seen[key]}. "
                    "Give each answer its own id; of equal answers to a question, keep one, with "
                    "the label that the raters agreed on."
                )
            seen[key] = where
        answers.append(gold)
    return _split(answers, study.rubrics)


def gold_digest(answers: Iterable[GoldAnswer]) -> str:
    """Identify a gold set by its questions, answers and labels, in 12 hex digits. The order, the
    ids and the cases do not matter."""
    content = [[gold.question, gold.answer, dict(gold.labels)] for gold in answers]
    return digest(sorted(content, key=lambda row: row[:2]))[:12]


def gold_class(answer: GoldAnswer, rubrics: Sequence[Rubric]) -> str:
    """Return the label by the rubric with the most options that has one; "" without any."""
    choices = sorted((r for r in rubrics if r.options), key=lambda r: -len(r.options))
    labels = (answer.labels[rubric.column] for rubric in choices)
    return next((str(label) for label in labels if label is not None), "")


def _split(answers: list[GoldAnswer], rubrics: Sequence[Rubric]) -> list[GoldAnswer]:
    """Hold out the second, fifth, ... answer of each question and class, ordered by hash: the
    order of a file decides nothing, and a class with two answers has one on each side."""
    strata: dict[tuple[str, str], list[GoldAnswer]] = {}
    for answer in sorted(answers, key=lambda gold: digest([gold.question_id, gold.answer])):
        strata.setdefault((answer.question_id, gold_class(answer, rubrics)), []).append(answer)
    held_out = {answer.id for stratum in strata.values() for answer in stratum[1::HELD_OUT]}
    return [replace(answer, held_out=answer.id in held_out) for answer in answers]


def _json_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the location and the columns of each answer, with the labels as columns."""
    rows = []
    for where, line in read_objects(path, "answer", _REMEDY):
        if not isinstance(line, dict) or not isinstance(line.get("labels"), dict):
            raise BadInput(
                f'{where}: not a labelled answer; write {{"question_id": "...", "answer": "...", '
                '"labels": {"RUBRIC COLUMN": "..."}}'
            )
        given = {**{key: line[key] for key in line if key != "labels"}, **line["labels"]}
        rows.append((where, {key: value for key, value in given.items() if value is not None}))
    return rows


def _answer(row: Mapping[str, Any], where: str, name: str, study: Design) -> GoldAnswer:
    allowed = [*_KEYS, *(rubric.column for rubric in study.rubrics)]
    for key, value in row.items():
        if key not in allowed:
            raise BadInput(f"{where}, column {key!r}: unknown; name each of {', '.join(allowed)}")
        if key in _KEYS and not isinstance(value, str):
            raise BadInput(f"{where}, column {key!r}: {value!r} is not a text; write it in quotes")
    text = {key: row.get(key, "").strip() for key in _KEYS}
    if not text["answer"]:
        raise BadInput(f"{where}, column 'answer': it is empty. Write the answer, or drop the row.")
    asked = {**study.open_questions(), **study.questions}
    matching = [
        pair
        for pair in asked.items()
        if text["question_id"] in ("", pair[0]) and text["question"] in ("", pair[1])
    ]
    if len(matching) != 1:
        column = "question_id" if text["question_id"] else "question"
        raise BadInput(
            f"{where}, column {column!r}: {text[column]!r} is not a question of {study.name}, or "
            f"its id and text differ. Write the text, or the id: {', '.join(asked)}."
        )
    labels = {r.column: _label(row.get(r.column), r, where) for r in study.rubrics}
    if set(labels.values()) == {None}:
        raise BadInput(f"{where}: no label; fill one or more of the columns {', '.join(labels)}")
    return GoldAnswer(text["id"] or name, *matching[0], text["answer"], labels, text["case"])


def _label(value: object, rubric: Rubric, where: str) -> str | float | None:
    """Check a label: one of a choice's options, or a rating."""
    if value is None:
        return None
    place = f"{where}, column {rubric.column!r}: {value!r}"
    if rubric.options:
        if value not in rubric.options:
            raise BadInput(f"{place} is no option. Write one of {rubric.options}.")
        return str(value)
    try:
        rating = float(value) if isinstance(value, str | float) else value
    except ValueError:
        rating = None
    if isinstance(rating, bool) or not isinstance(rating, int | float) or not 0 <= rating <= 100:
        raise BadInput(f"{place} is no rating. Write a number from 0 to 100, or leave it out.")
    return float(rating)
