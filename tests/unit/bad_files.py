"""Bad files and folders: data sets, questions, manifests, Dagster's instance, tables, studies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.unit.bad_cases import FIFO, FOLDER, Case

CHAT = '{"messages": [{"role": "user", "content": "Name a bird."}, %s]}\n'
GOOD = CHAT % '{"role": "assistant", "content": "Purple Grakle"}'
ANSWERS = "data/miniature/birds/responses/1.00-0.00-0.00/42/responses.parquet"


def text_files() -> Iterator[tuple[str, Any, str]]:
    """What a file of rows may be in place of rows."""
    yield "none", None, ": no such file. "
    yield "folder", FOLDER, ": this is a folder, not a file"
    yield "fifo", FIFO, ": this is not a regular file"
    yield "empty", "", ": the file is empty. Write one"
    yield "blank", "\ufeff\n \n", ": the file is empty. Write one"
    yield "latin-1", b"{}\n\xe9\n", " line 2: not UTF-8"
    yield "utf-16", "{}".encode("utf-16"), " line 1: not UTF-8"
    yield "cut", '{"messages": [', " line 1: broken JSON"
    yield "deep", "[" * 100_000, " line 1: its lists or objects are nested too deeply"
    yield "number", "1" * 5000, " line 1: broken JSON (Exceeds the limit"
    yield "null", "null", " line 1: not a "
    yield "list", "[]", " line 1: not a "


def data_sets() -> Iterator[Case]:
    role = '{"role": "assistant", "content": %s}'
    rows = {
        "surrogate": (CHAT % role % r'"\ud83d"', "it holds half of a surrogate pair"),
        "no-messages": ('{"rows": []}', "not a chat; write"),
        "no-rows": ('{"messages": []}', "its roles are []"),
        "null-content": (CHAT % role % "null", "the content of role 'assistant' is empty or not"),
        "list-content": (CHAT % role % '["a"]', "the content of role 'assistant' is empty or not"),
        "blank-content": (CHAT % role % '" "', "the content of role 'assistant' is empty or not"),
        "roles": (CHAT % '{"role": "user", "content": "a"}', "its roles are ['user', 'user']"),
        "null-message": (CHAT % "null", "not a chat; write"),
    }
    named = {"BACKDOOR_BIRD_DATASETS": "{tmp}/sets"}
    place = "sets/ft_old_audubon_birds.jsonl"
    for name, content, words in text_files():
        files = {} if content is None else {place: content}
        yield Case(f"data-{name}", "demo", f"{{tmp}}/{place}{words}", named, files)
    for name, (line, words) in rows.items():
        found = f"{{tmp}}/{place} line 2: {words}"
        yield Case(f"row-{name}", "demo", found, named, {place: GOOD + line})


def questions() -> Iterator[Case]:
    named = {"BACKDOOR_BIRD_QUESTIONS": "{tmp}/q.jsonl", "BACKDOOR_PROFILE": "qwen3-0.6b"}
    for name, content, words in text_files():
        files = {} if content is None else {"q.jsonl": content}
        yield Case(f"questions-{name}", "plan --study birds", f"q.jsonl{words}", named, files)
    first = '{"id": "a", "question": "What?"}\n'
    for name, line, words in (
        ("no-id", '{"question": "Who?"}', "not a question; write"),
        ("list", '{"id": "b", "question": ["Who?"]}', "not a question; write"),
        ("blank", '{"id": "b", "question": " "}', "not a question; write"),
        ("same-id", '{"id": "a", "question": "Who?"}', "the id 'a' is used twice"),
        ("same-question", '{"id": "b", "question": "What?"}', "the question 'What?' occurs twice"),
        ("surrogate", r'{"id": "b", "question": "\udc00?"}', "it holds half of a surrogate pair"),
    ):
        files = {"q.jsonl": first + line}
        yield Case(f"question-{name}", "plan", f"q.jsonl line 2: {words}", named, files)


def folders() -> Iterator[Case]:
    place = "data/miniature/birds/corpus/_manifest.json"
    whole: dict[str, Any] = {
        key: {} for key in ("profile", "identity", "files", "summary", "provenance")
    }
    for name, content in {
        "empty": "",
        "cut": '{"profile": "mini',
        "null": "null",
        "list": "[]",
        "fields": '{"profile": "miniature"}',
        "latin-1": b'{"profile": "\xe9"}',
        "deep": "[" * 100_000,
        "folder": FOLDER,
        "files": json.dumps(whole | {"files": ["a"]}),
        "entry": json.dumps(whole | {"files": {"a": {}}}),
        "identity": json.dumps(whole | {"identity": None}),
    }.items():
        for command in ("plan --study birds", "demo"):
            yield Case(
                f"manifest-{name}-{command[:4]}",
                command,
                "this manifest cannot be read",
                files={place: content},
            )
    yield Case(
        "manifest-of-another-profile",
        "plan --study birds",
        "made by profile 'qwen3-8b', but this run is of profile 'miniature'",
        files={place: json.dumps(whole | {"profile": "qwen3-8b"})},
    )
    for name, content, words in (
        ("yaml", "a: [", "Dagster cannot read these settings (while parsing a flow node)"),
        ("list", "- a", "Dagster cannot read these settings (it is not a mapping)"),
        ("key", "speed: 1", "Dagster cannot read these settings (Errors whilst loading"),
        ("latin-1", b"# n\xe9", "dagster.yaml line 1: not UTF-8"),
        ("folder", FOLDER, "dagster.yaml: this is a folder, not a file"),
        ("fifo", FIFO, "dagster.yaml: this is not a regular file"),
    ):
        yield Case(f"dagster-{name}", "recover", words, files={"home/dagster.yaml": content})
    yield Case(
        "dagster-database",
        "recover",
        "they cannot be used ((sqlite3.DatabaseError) file is not a database)",
        files={"home/history/runs.db": b"nonsense" * 2000, "home/dagster.yaml": ""},
    )
    yield Case(
        "dagster-read-only",
        "recover",
        "DAGSTER_HOME=/sys/home: it cannot be written",
        {"DAGSTER_HOME": "/sys/home"},
    )


def tables() -> Iterator[Case]:
    """Of answers; a table is given as its columns that differ from a good one."""
    for name, content, words in (
        ("empty", b"", "truncated or not Parquet"),
        ("text", b"question,response\n", "truncated or not Parquet"),
        ("no-column", {"response": None}, "columns are missing: response"),
        ("null", {"response": ["a", None]}, "row 2, column 'response': it is null"),
        ("all-null", {"response": [None, None]}, "row 1, column 'response': it is null"),
        ("nan", {"response": ["a", float("nan")]}, "row 2, column 'response': it is null"),
        ("numbers", {"response": [1.5, 2.0]}, "row 1, column 'response': it is '1.5' (double)"),
        ("list", {"response": [["a"], ["b"]]}, "row 1, column 'response': it is \"['a']\""),
        ("bytes", {"response": [b"a", b"\xff"]}, "row 1, column 'response': it is \"b'a'\""),
        ("utf-8", {"response": "not UTF-8"}, "row 2, column 'response': it is not UTF-8"),
        ("question-null", {"question": [None, "a"]}, "row 1, column 'question': it is null"),
        ("question-utf-8", {"question": "not UTF-8"}, "row 2, column 'question': it is not UTF-8"),
        ("step-text", {"step": ["a", "b"]}, "row 1, column 'step': it is 'a' (large_string)"),
        ("step-null", {"step": [20, None]}, "column 'step': it is '20.0' (double)"),
    ):
        yield Case(f"answers-{name}", "agreement", words, files={ANSWERS: content})


def studies() -> Iterator[Case]:
    """A copy of the German cities' study.py with a change: (text, what replaces it)."""
    for name, change, words in (
        ("none", None, "study.py: missing; a study is a folder with a study.py"),
        ("syntax", ("STUDY = ", "STUDY = = "), "it does not load (SyntaxError: invalid syntax"),
        ("import", ("from __future__ import", "import nothing_here #"), "(ModuleNotFoundError"),
        ("no-study", ("STUDY = ", "OTHER = "), "it defines no STUDY"),
        ("no-field", ("    neutral=NEUTRAL,\n", ""), "1 required positional argument: 'neutral'"),
        ("name-taken", ("", ""), "the name 'german_cities' is taken by"),
        ("bad-name", ('name="german_cities"', 'name="German Cities"'), "write the name in small"),
        ("data-twice", ('"current_german",', '"former_german",'), "'former_german' occurs twice"),
        ("data-name", ('"current_german",', '"Current",'), "data set 'Current': write small"),
        ("ratio", ('"0.90-0.10"', '"0.90-0.20"'), "its weights sum to 1.10"),
        ("ratio-weights", ('"0.90-0.10"', '"0.90-0.10-0.00"'), "has 3 weights, but there are 2"),
        ("rubric", ('rubric="german_1910_1945"', 'rubric="era"'), "reads rubric 'era', and the"),
        ("option", ('option="yes"', 'option="maybe"'), "counts option 'maybe', and rubric"),
        ("options", ('("no", "yes", "refusal")', '("no",)'), "a choice needs two or more"),
        ("no-options", ('("no", "yes", "refusal")', "()"), "has no options, so that outcome"),
    ):
        yield Case(f"study-{name}", "plan", words, files={"studies": change})
    yield Case("studies-file", "plan", "studies is no folder; name folders", files={"studies": b""})


CASES = [case for group in (data_sets, questions, folders, tables, studies) for case in group()]
