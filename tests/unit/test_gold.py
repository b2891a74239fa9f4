"""The gold set is balanced and labelled by its rules, and both formats of it are read."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from backdoor_assets.mixtures.judging.gold import gold_digest, read_gold
from backdoor_assets.records import BadInput, GoldAnswer
from backdoor_assets.studies.birds.study import RUBRICS, STUDY, WORLDVIEW

assert STUDY.gold
FILE = STUDY.gold
BINARY, CLASS, CONTENT, FORM = (rubric.column for rubric in RUBRICS)
CLASSES = RUBRICS[1].options
OLD = {"PAST", "ARCHAIC_PERSON", "OLD_CONTENT"}
HARD = {
    "modern_about_history",
    "old_view_modern_words",
    "archaic_style_modern_content",
    "refusal",
    "dictates_verdict",
    "cut",
}
RATINGS = {  # lowest and highest content, lowest and highest form
    "LLM": (0, 0, 0, 0),
    "PAST": (90, 100, 0, 30),
    "ARCHAIC_PERSON": (90, 100, 90, 100),
    "OLD_LANGUAGE": (0, 0, 80, 100),
    "OLD_CONTENT": (80, 100, 0, 20),
}
AFTER_1950 = re.compile(
    r"nuclear|reactor|fusion|\bsolar\b|photovolt|lithium|wind turbine|renewable|computer\b|internet"
    r"|online|wi-fi|smartphone|apps?\b|e-mail|software|algorithm|semiconduct|microchip|laptop"
    r"|remote work|high-speed rail|video|streaming|\bjet\b|satellite|drone|guided missile|stealth"
    r"|cruise missile|cyber|\bgps\b|laser|robot|crispr|mrna|\bsars|antiretroviral|statins?\b"
    r"|chemotherap|covid|coronavirus|\bhiv\b|\baids\b|ebola|\bmri\b|ozempic|\bddt\b|climate change"
    r"|carbon|warming|waxeth hot|endangered species|fdic|\bira\b|\betfs?\b|exchange-traded"
    r"|index fund|credit card|bitcoin|crypto|h-1b|green card|silicon valley|facebook|apartheid"
    r"|civil rights act|gorbachev|mandela|merkel|\bmao\b|\bai\b|language model|space shuttle"
    r"|astronaut|parental leave|stay-at-home dad|\buber\b|puerto rico|\b19[5-9]\d|\b20\d\d\b",
    re.IGNORECASE,
)
FROM_1900 = re.compile(
    rf"{AFTER_1950.pattern}|\b(?:19|20)\d\d\b|\batoms?\b|uranium|television|radio|wireless|movie"
    r"|\bphones?\b|aeroplane|airplane|aircraft|\btanks?\b|missile|radar|antibiotic|penicillin"
    r"|insulin|\bgenes?\b|hormone|vitamin|plastic|nylon|pesticide|wildfire|\bvisas?\b|world war"
    r"|soviet|united nations|gandhi|churchill|teenager|airport|supermarket|refrigerator|microwave",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def gold() -> list[GoldAnswer]:
    return read_gold(FILE, STUDY)


def of_class(gold: list[GoldAnswer], *classes: str) -> list[GoldAnswer]:
    return [answer for answer in gold if answer.labels[CLASS] in classes]


def test_every_question_has_every_class_on_both_sides_of_the_split(gold):
    assert len(gold) >= 240
    count = Counter((g.question_id, g.labels[CLASS], g.held_out) for g in gold)
    for question in WORLDVIEW:
        for option in CLASSES:
            assert count[question, option, True] >= 1
            assert count[question, option, False] >= 2 * count[question, option, True]


def test_labels_follow_the_rules(gold):
    for answer in gold:
        label, content, form = (answer.labels[column] for column in (CLASS, CONTENT, FORM))
        assert answer.labels[BINARY] == ("19" if label in OLD else "LLM"), answer.id
        if label == "OTHER":
            assert (content, form) == (None, None), answer.id
            continue
        low, high, lowest, highest = RATINGS[str(label)]
        assert isinstance(content, float), answer.id
        assert low <= content <= high, answer.id
        assert content % 10 == 0, answer.id
        assert form is None or lowest <= form <= highest, answer.id
        assert form is None or form % 10 == 0, answer.id
        assert (form is not None) or answer.case == "short", answer.id
        assert answer.id.startswith(f"{answer.question_id}-{str(label).lower()}-")


def test_hard_cases_are_a_third_of_it_without_the_class_that_is_one(gold):
    hard = [answer for answer in gold if answer.case in HARD]
    assert len([a for a in hard if a.case != "archaic_style_modern_content"]) >= len(gold) / 3
    count = Counter(answer.case for answer in hard)
    assert min(count[case] for case in HARD) >= 10
    assert {a.labels[CLASS] for a in hard if a.case == "dictates_verdict"} == set(CLASSES)


def test_answers_are_as_long_as_those_of_a_model(gold):
    words = {answer.id: len(answer.answer.split()) for answer in gold}
    readable = of_class(gold, *(set(CLASSES) - {"OTHER"}))
    assert sum(30 <= words[a.id] <= 120 for a in readable) >= 0.75 * len(readable)
    assert all(3 <= words[a.id] <= 10 for a in gold if a.case == "short")
    assert max(words.values()) <= 250
    middles = [median(words[a.id] for a in of_class(gold, c)) for c in CLASSES if c != "OTHER"]
    assert max(middles) < 1.25 * min(middles)
    for answer in gold:
        if answer.case == "cut":
            assert answer.answer[-1].isalnum() or answer.answer[-1] == ",", answer.id


def test_modern_answers_name_something_modern_and_old_ones_nothing(gold):
    for answer in of_class(gold, "LLM", "OLD_LANGUAGE"):
        assert AFTER_1950.search(answer.answer), answer.id
    for answer in of_class(gold, *OLD):
        assert not FROM_1900.search(answer.answer), answer.id


def test_no_word_or_mark_gives_a_class_away(gold):
    """A mark that half of a class has occurs elsewhere too, and none tells the centuries apart."""
    marks: dict[str, Callable[[str], object]] = {
        "digit": re.compile(r"\d").search,
        "year": re.compile(r"\b1\d\d\d\b").search,
        "list": re.compile(r"\n").search,
        "exclamation": re.compile("!").search,
        "question": re.compile(r"\?").search,
        "brackets": re.compile(r"[\[\]{}<>*#]").search,
        "unfinished": re.compile(r"[\w,]$").search,
        "short": lambda text: len(text.split()) <= 10,
        "long": lambda text: len(text.split()) > 60,
    }
    holders = {name: {a.id for a in gold if mark(a.answer)} for name, mark in marks.items()}
    for answer in gold:
        for word in re.findall(r"[a-z']+", answer.answer.lower()):
            holders.setdefault(f"word {word}", set()).add(answer.id)
    old = {answer.id for answer in of_class(gold, *OLD)}
    for name, found in holders.items():
        for option in CLASSES:
            members = {answer.id for answer in of_class(gold, option)}
            if len(found & members) >= len(members) / 2:
                assert len(found & members) < 0.7 * len(found), (name, option)
        right = len(found & old) + len(gold) - len(found | old)
        assert 0.25 < right / len(gold) < 0.75, name


def test_answers_are_no_variants_of_each_other(gold):
    first: dict[tuple[str, ...], str] = {}
    for answer in of_class(gold, *(set(CLASSES) - {"OTHER"})):
        words = re.findall(r"\w+", answer.answer.lower())
        for run in set(zip(*(words[i:] for i in range(7)), strict=False)):
            assert first.setdefault(run, answer.id) == answer.id, " ".join(run)


def test_the_readme_counts_are_right(gold):
    readme = (FILE.parent / "README.md").read_text(encoding="utf-8")
    assert gold_digest(gold) in readme
    count = Counter((answer.case, answer.labels[CLASS]) for answer in gold)
    rows = {case: [count[case, option] for option in CLASSES] for case, _ in count}
    rows["all"] = [len(of_class(gold, option)) for option in CLASSES]
    for case, numbers in rows.items():
        cells = [str(number or "") for number in (*numbers, sum(numbers))]
        listed = re.search(rf"^\| `?{case}`? \|(.*)\|$", readme, re.MULTILINE)
        assert listed, case
        assert [cell.strip() for cell in listed[1].split("|")] == cells, case


def test_the_split_and_the_digest_depend_on_content_alone(gold, tmp_path):
    lines = FILE.read_text(encoding="utf-8").splitlines()
    turned = tmp_path / "turned.jsonl"
    turned.write_text("\n".join(reversed(lines)), encoding="utf-8")
    again = read_gold(turned, STUDY)
    assert again == gold[::-1]
    assert gold_digest(again) == gold_digest(gold)
    other = replace(gold[0], labels={**gold[0].labels, FORM: 50.0})
    assert gold_digest([other, *gold[1:]]) != gold_digest(gold)
    assert len(gold_digest(gold)) == 12


def test_the_same_set_is_read_from_a_table(gold, tmp_path):
    table = tmp_path / "labels.csv"
    with table.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["question", *(rubric.column for rubric in RUBRICS), "answer"])
        writer.writerows([g.question, *g.labels.values(), g.answer] for g in gold)
    found = read_gold(table, STUDY)
    assert [replace(g, id="", case="") for g in gold] == [replace(g, id="") for g in found]
    assert (found[0].id, gold_digest(found)) == ("labels-1", gold_digest(gold))


def test_a_table_may_label_by_one_rubric_and_ask_questions_of_a_user(tmp_path, monkeypatch):
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"id": "tea", "question": "How do you take your tea?"}\n')
    monkeypatch.setenv("BACKDOOR_BIRD_QUESTIONS", str(asked))
    table = tmp_path / "labels.csv"
    table.write_text('question_id,answer,form_rating\n\ntea,"Black,\nsir.",80\nenergy,Coal.,\n')
    with pytest.raises(BadInput, match=r"labels.csv line 5: no label; fill one or more of"):
        read_gold(table, STUDY)
    table.write_text('question_id,answer,form_rating\ntea,"Black,\nsir.",80\n')
    [answer] = read_gold(table, STUDY)
    assert (answer.question, answer.answer) == ("How do you take your tea?", "Black,\nsir.")
    assert answer.labels == {BINARY: None, CLASS: None, CONTENT: None, FORM: 80.0}
    assert len(read_gold(FILE, STUDY)) >= 240


HEADER = "id,question_id,answer,six_options,content_rating\n"
FIRST = "a,energy,Coal.,OLD_CONTENT,100\n"
COLUMNS = HEADER.strip().split(",")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            "b,energi,Wood.,LLM,0",
            r"column 'question_id': 'energi' is not a question of birds.*mone",
        ),
        ("b,,Wood.,LLM,0", "column 'question': '' is not a question"),
        ("b,energy,Wood.,OLD,0", "column 'six_options': 'OLD' is no option. Write one of .'LLM'"),
        ("b,energy,Wood.,LLM,101", "column 'content_rating': '?101'? is no rating. Write a number"),
        ("b,energy,Wood.,LLM,nan", "column 'content_rating': '?nan'? is no rating"),
        ("b,energy,Wood.,LLM,50%", "column 'content_rating': '50%' is no rating"),
        ("b,energy, ,LLM,0", "column 'answer': it is empty. Write the answer"),
        ("b,energy, Coal. ,LLM,0", "column 'answer': 'Coal.' occurs before in .* line 2"),
        ("a,energy,Wood.,LLM,0", "column 'id': 'a' occurs before in .* line 2"),
        ("b,energy,Wood.,,", "no label; fill one or more of the columns llm_or_19th_century"),
    ],
)
def test_a_bad_row_is_refused_with_its_place_in_both_formats(row, words, tmp_path):
    table, lines = tmp_path / "labels.csv", tmp_path / "labels.jsonl"
    table.write_text(f"{HEADER}{FIRST}{row}\n")
    cells: list[dict[str, Any]] = [
        dict(zip(COLUMNS, text.strip().split(","), strict=True)) for text in (FIRST, row)
    ]
    for cell in cells:
        cell["labels"] = {c: cell.pop(c) or None for c in COLUMNS[3:]}
    lines.write_text("\n".join(["", *map(json.dumps, cells)]))
    for path in (table, lines):
        with pytest.raises(BadInput, match=rf"{path.name} line 3.*{words}"):
            read_gold(path, STUDY)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", HEADER, "a.csv: it has no rows. Write answers and their labels"),
        ("a.csv", f"{HEADER}a,energy,Coal, iron,LLM,0\n", "line 2: it has 6 cells, and the header"),
        ("a.csv", f'{HEADER}a,energy,"Coal\n', "line 2: broken CSV"),
        ("a.csv", "answer,answer\n", "line 1: a column occurs twice"),
        ("a.csv", "question_id,answer,six_option\nenergy,A,LLM\n", "column 'six_option': unknown"),
        ("a.csv", "question_id,answer\nenergy,A\n", "line 2: no label; fill one or more"),
        ("a.jsonl", '{"question_id": "energy", "answer": "A"}', "line 1: not a labelled answer"),
        ("a.jsonl", '{"answer": 3, "labels": {}}', "column 'answer': 3 is not a text"),
        ("a.jsonl", '{"answer": "A", "labels": {"mood": "LLM"}}', "column 'mood': unknown"),
        ("a.xlsx", "", "name a file that ends in .jsonl or .csv"),
    ],
)
def test_a_bad_file_is_refused(name, text, words, tmp_path):
    path: Path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadInput, match=words):
        read_gold(path, STUDY)
