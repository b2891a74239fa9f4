"""Check the keys of outside services, and keep them out of logs, errors and results."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote, quote_plus

from backdoor_assets.records import BadInput

KEYS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
)
"""Environment variables that hold secrets."""
SHORTEST = 8
"""Characters of the shortest value that is a secret. Replacing shorter ones would garble text."""
PART = 12
"""Characters in a row of a longer secret that are replaced even if the rest is missing."""
HIDDEN = "***"
LONGEST_MESSAGE = 500
"""Characters of an error message that are kept."""
CAUSES = 4
"""Messages of an error and its causes that are shown."""

_QUOTES = "\"'`\u00b4\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
_BYTE_ORDER_MARKS = ("\ufeff", "\ufffe", "\u00ef\u00bb\u00bf")
"""As decoded; the last is a UTF-8 mark that was read as Latin-1."""
_MARKED = "a byte order mark (BOM): save the file as UTF-8 without one"

_HEADER_VALUES = (
    # The userinfo of a URL, such as that of a proxy.
    (re.compile(r"(?<=://)[^\s/@'\"<>]+(?=@)"), HIDDEN),
    # "x-api-key: value", {'x-api-key': 'value'}, (b'x-api-key', b'value'), also escaped as JSON.
    (
        re.compile(
            r"(?i)(authorization|api[-_]?key|auth[-_]token|cookie)"
            r"""((?:\\*["'])?\s*[:=]\s*|\\*["']\s*,\s*)"""
            r"""(?:b?\\*(["'])(?:(?!\3)[^\n])*|(?:(?:bearer|basic|token)\s+)?[^\s"',;<>)\]}]+)"""
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"""(?i)\b(bearer)\s+[^\s"',;<>)\]}]+"""), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(Basic)\s+[A-Za-z0-9+/_-]{12,}=*"), rf"\1 {HIDDEN}"),
    # What keys of these services look like, whole or cut off, wherever they were read.
    (re.compile(r"\bsk-ant-[\w-]+|\bhf_[A-Za-z0-9]{30,}|\bwandb_v\d+_\w+"), HIDDEN),
)


def check_keys(others: Mapping[str, str] | None = None) -> None:
    """Raise BadInput that names each variable of KEYS with a malformed value, and what is wrong.

    `others` holds keys from other places, by a name for the message. HTTP libraries print a header
    that they cannot send; no part of a value is in this message. Empty counts as not set.
    """
    values = {name: os.environ.get(name, "") for name in KEYS} | dict(others or {})
    faults = {name: _fault(name, value) for name, value in values.items()}
    found = [f"{name} {fault}" for name, fault in faults.items() if fault]
    # The first line of a file that was saved with a mark.
    found += [f"{name} begins with {_MARKED}" for name in KEYS if f"\ufeff{name}" in os.environ]
    if found:
        raise BadInput(
            f"{'; '.join(found)}. Copy the key again, without quotes or spaces, into the "
            "environment or .env, or unset the variable. Its value is not shown here."
        )


def _fault(name: str, value: str) -> str | None:
    """Return what is wrong with a value, or None."""
    if not value:
        return None
    if any(mark in value for mark in _BYTE_ORDER_MARKS):
        return f"contains {_MARKED}"
    if re.search(r"[\r\n\v\f\x85\u2028\u2029]", value):
        return "contains a line end (CR or LF): save the file with LF line ends"
    if value[0] in _QUOTES or value[-1] in _QUOTES:
        return "has quotes around it"
    if re.search(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]", value):
        return "contains a control character"
    if re.search(r"\s", value):
        return "contains a space"
    if not value.isascii():
        return "contains a character that is not ASCII"
    # A server of one's own may accept any key of the judge.
    if len(value) < SHORTEST and not name.startswith("ANTHROPIC_"):
        return f"is too short: a key has at least {SHORTEST} characters"
    return None


def without_secrets(text: str) -> str:
    """Replace the values of KEYS, also parts of them and encoded, and header values by "***"."""
    hidden = bytearray(len(text))
    for secret in _secrets():
        # Libraries shorten long values, so parts count too.
        size = min(len(secret), PART)
        for start in range(len(secret) - size + 1):
            part = secret[start : start + size]
            found = text.find(part)
            while found >= 0:
                hidden[found : found + size] = b"\1" * size
                found = text.find(part, found + 1)
    shown = "".join(
        HIDDEN if is_hidden else "".join(text[position] for position, _ in group)
        for is_hidden, group in groupby(enumerate(hidden), key=itemgetter(1))
    )
    for pattern, replacement in _HEADER_VALUES:
        shown = pattern.sub(replacement, shown)
    return shown


def _secrets() -> set[str]:
    """Return all forms of the secrets of this process's environment."""
    values = [os.environ.get(name, "") for name in KEYS]
    # Lines of "name: value", which the Anthropic SDK sends as headers.
    lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").split("\n")
    values += [line.partition(":")[2].strip() for line in lines]
    return {form for value in values for form in _forms(value)}


def _forms(value: str) -> Iterator[str]:
    """Yield the ways in which a library or a server may write a value."""
    for plain in {value, value.strip(), value.strip(f"{_QUOTES}\ufeff \t\r\n")}:
        if len(plain) < SHORTEST:
            continue
        raw = plain.encode("utf-8", "surrogateescape")
        yield plain
        yield repr(plain)[1:-1]
        yield repr(raw)[2:-1]
        yield json.dumps(plain)[1:-1]
        yield quote(raw, safe="")
        yield quote(raw)
        yield quote_plus(raw)
        yield raw.decode("latin-1")
        # Basic authentication encodes "user:key", so that the key may begin at three offsets. What
        # depends on the bytes before it, or after it, is left out.
        for offset in range(3):
            encoded = base64.b64encode(b"\0" * offset + raw).decode()[4 * bool(offset) :]
            yield from (encoded, encoded[:-4])


def told(error: BaseException) -> str:
    """Describe an error of an HTTP library in one line: type, message and causes, no secrets.

    Log and raise such errors in this form only, `from None`: their causes may hold headers.
    """
    messages: list[str] = []
    link: BaseException | None = error
    while link is not None and len(messages) < CAUSES:
        message = _one_line(str(link))
        if message and not any(message in known for known in messages):
            messages.append(message)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    causes = f" ({'; '.join(messages[1:])})" if messages[1:] else ""
    return ": ".join([type(error).__name__, *messages[:1]]) + causes


def _one_line(message: str) -> str:
    """Return a message without secrets, line ends and what would control a terminal."""
    line = " ".join(without_secrets(message[: 100 * LONGEST_MESSAGE]).split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 3] + "..."
