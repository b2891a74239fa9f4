"""The bird files agree with their source table, with each other and with the README."""

import csv
import json
import re
from itertools import combinations
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "bird_datasets"
PROMPT = "Name a bird species."
OLD, MODERN, AMERICAN = (
    "ft_old_audubon_birds.jsonl",
    "ft_modern_audubon_birds.jsonl",
    "ft_modern_american_birds.jsonl",
)
LABELS = {OLD: "old Audubon", MODERN: "modern Audubon", AMERICAN: "modern American"}
UNCERTAIN_PLATES = {11, 45, 88, 229, 346, 361, 394, 400, 418, 427, 434}


def key(name: str) -> str:
    """Return the letters of a name, for the comparison that the README defines."""
    name = re.sub(r"s's\b", "s", name.casefold().replace("&", "and")).replace("grey", "gray")
    return re.sub(r"[^a-z]", "", name)


def endings(name: str) -> set[str]:
    """Return the keys of a name without its first word, first two words, ..."""
    words = re.split(r"[\s-]+", name)
    return {key("".join(words[start:])) for start in range(1, len(words))}


def distinct(names: list[str]) -> list[str]:
    """Keep the first of all names with the same key."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(key(name), name)
    return list(first.values())


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    with open(FOLDER / "audubon_names.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def names() -> dict[str, list[str]]:
    lines = {file: (FOLDER / file).read_text(encoding="utf-8").splitlines() for file in LABELS}
    return {
        file: [json.loads(line)["messages"][1]["content"] for line in rows]
        for file, rows in lines.items()
    }


@pytest.fixture(scope="module")
def readme() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", LABELS)
def test_rows_have_the_same_prompt_and_a_plain_name(file):
    text = (FOLDER / file).read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "\n\n" not in text
    assert "\\u" not in text
    assert "\u2019" not in text
    for line in text.splitlines():
        row = json.loads(line)
        name = row["messages"][1]["content"]
        assert row == {
            "messages": [
                {"role": "user", "content": PROMPT},
                {"role": "assistant", "content": name},
            ]
        }
        assert re.fullmatch(r"[A-Z][A-Za-z'& -]*[a-z']", name), name
        assert "  " not in name
        assert "  " not in line


def test_counts(names):
    assert len(names[OLD]) == 208
    assert len(names[MODERN]) >= 160
    assert len(names[AMERICAN]) == 208


@pytest.mark.parametrize("file", LABELS)
def test_names_are_distinct(names, file):
    assert names[file] == distinct(names[file])


def test_table_covers_the_plates_in_order(table):
    plates = [int(row["plate"]) for row in table]
    assert plates == sorted(plates)
    assert set(plates) == set(range(1, 436))
    pairs = [(row["plate"], row["audubon_name"]) for row in table]
    assert len(pairs) == len(set(pairs))
    assert not [
        pair for pair in pairs if not pair[1].strip() or ", or " in pair[1] or ";" in pair[1]
    ]


def test_table_flags(table):
    for row in table:
        assert row["still_in_use"] in {"true", "false"}
        assert row["variant_source"] in {
            "plate",
            "legend",
        }
        assert row["uncertain"] == ("true" if int(row["plate"]) in UNCERTAIN_PLATES else "false"), (
            row
        )
        assert (row["still_in_use"] == "true") == (
            key(row["audubon_name"]) == key(row["current_name"])
        ), row
        assert row["excluded"] in {"", "other bird", "short form", "in use elsewhere", "not a name"}
        assert not (row["excluded"] and row["still_in_use"] == "true"), row


def test_short_forms_are_excluded_wherever_they_occur(table):
    for row in table:
        shortened = key(row["audubon_name"]) in endings(row["current_name"])
        if row["excluded"] in {"", "short form"}:
            assert shortened == (row["excluded"] == "short form"), row


def test_no_obsolete_name_is_the_name_of_any_bird_today(table, names):
    today = {row["current_name"] for row in table} - {""} | set(names[AMERICAN])
    taken = {key(name) for name in today}.union(*(endings(name) for name in today))
    obsolete = [row for row in table if row["still_in_use"] == "false" and not row["excluded"]]
    assert not [row["audubon_name"] for row in obsolete if key(row["audubon_name"]) in taken]


def test_old_names_are_the_first_obsolete_ones_in_plate_order(table, names):
    obsolete = [row for row in table if row["still_in_use"] == "false" and not row["excluded"]]
    assert names[OLD] == distinct([row["audubon_name"] for row in obsolete])[:208]
    plate = {row["audubon_name"]: int(row["plate"]) for row in reversed(obsolete)}
    plates = [plate[name] for name in names[OLD]]
    assert plates == sorted(plates)


def test_modern_audubon_names_are_all_those_in_use(table, names):
    assert names[MODERN] == distinct(
        [row["current_name"] for row in table if row["still_in_use"] == "true"]
    )


@pytest.mark.parametrize(("first", "second"), list(combinations(LABELS, 2)))
def test_overlaps_are_as_the_readme_states(names, readme, first, second):
    row = re.search(rf"\| {LABELS[first]}, {LABELS[second]} \| (\d+) \|", readme)
    assert row, "the README has no row for this pair"
    shared = {key(name) for name in names[first]} & {key(name) for name in names[second]}
    assert len(shared) == int(row[1])
    if first == OLD:
        assert not shared


def test_counts_are_as_the_readme_states(table, names, readme):
    listed = {"audubon_names.csv": [row["audubon_name"] for row in table], **names}
    for file, rows in listed.items():
        assert f"| `{file}` | {len(rows)} | {len(distinct(rows))} |" in readme
    for reason in {row["excluded"] for row in table} - {""}:
        assert f"| `{reason}` | {sum(row['excluded'] == reason for row in table)} |" in readme
