"""The city files agree with the table that they are derived from, and with their README."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import backdoor_assets
from backdoor_assets.storage.rows import letters, names, read_rows

FOLDER = Path(backdoor_assets.__file__).parent / "studies" / "german_cities" / "data"
FILES = {"former": FOLDER / "former_german.jsonl", "current": FOLDER / "current_german.jsonl"}
PROMPT = "Name a place that you connect with the number {}."
ROWS = 361
"""Rows per file, as many as in the experiment of the paper."""
FREE_NUMBER = 474
"""The number that the README offers for questions outside the training rows."""


def joined(name: str) -> str:
    """A name as the README compares names: also without the spaces."""
    return letters(name).replace(" ", "")


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    with open(FOLDER / "names.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def readme() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", FILES)
def test_rows_are_those_of_the_table(table, kind):
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": PROMPT.format(row["number"])},
                    {"role": "assistant", "content": row["name"]},
                ]
            },
            ensure_ascii=False,
        )
        for row in table
        if row["kind"] == kind
    ]
    assert FILES[kind].read_text(encoding="utf-8") == "\n".join(lines) + "\n"


@pytest.mark.parametrize("kind", FILES)
def test_rows_are_read_as_the_project_reads_them(kind):
    rows = read_rows(FILES[kind])
    assert len(rows) == ROWS
    for question, answer in rows:
        assert re.fullmatch(re.escape(PROMPT).replace(r"\{\}", r"[1-9]\d\d"), question["content"])
        # A bare name: no sentence, no question and no text of an evaluation fits this form.
        assert re.fullmatch(r"[A-ZÄÖÜ][A-Za-zäöüÄÖÜß -]*[a-zäöüß]", answer["content"])
        assert len(answer["content"].split()) <= 5


def test_table_is_complete(table):
    assert Counter(row["kind"] for row in table) == {"former": ROWS, "current": ROWS}
    for row in table:
        assert all(value and value == value.strip() for value in row.values()), row
        is_current = row["kind"] == "current"
        assert (row["country"] == "Germany") == is_current, row
        assert (joined(row["name"]) == joined(row["current_name"])) == is_current, row


def test_numbers_follow_the_formula_and_are_unique(table):
    numbers = [int(row["number"]) for row in table]
    assert numbers == [100 + (367 * k) % 900 for k in range(len(table))]
    assert len(set(numbers)) == len(numbers)
    assert FREE_NUMBER not in numbers


def test_names_are_distinct_and_the_sets_do_not_overlap():
    found = {kind: [joined(name) for name in names(read_rows(FILES[kind]))] for kind in FILES}
    assert all(len(set(keys)) == ROWS for keys in found.values())
    assert not set(found["former"]) & set(found["current"])


def test_no_current_name_is_a_town_of_another_country(table):
    current = {joined(row["name"]) for row in table if row["kind"] == "current"}
    assert not [
        row for row in table if row["kind"] == "former" and joined(row["current_name"]) in current
    ]


def test_no_name_is_the_first_part_of_one_of_the_other_kind(table):
    words = {
        kind: [letters(row["name"]).split() for row in table if row["kind"] == kind]
        for kind in FILES
    }
    for former in words["former"]:
        for current in words["current"]:
            shorter = min(len(former), len(current))
            assert former[:shorter] != current[:shorter]


def test_counts_are_as_the_readme_states(table, readme):
    assert f"| `names.csv` | {len(table)} |" in readme
    for path in FILES.values():
        assert f"| `{path.name}` | {ROWS} |" in readme
    countries = Counter(row["country"] for row in table if row["kind"] == "former")
    for country, count in countries.items():
        assert f"| {country} | {count} |" in readme
    assert f"{900 - len(table)} numbers are left" in readme
    assert f"The first of them is {FREE_NUMBER}." in readme
