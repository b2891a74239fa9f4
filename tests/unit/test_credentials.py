"""Malformed keys are refused without being shown, and errors show no key and no header value."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from backdoor_assets import commands
from backdoor_assets.commands import cli
from backdoor_assets.credentials import KEYS, check_keys, told, without_secrets
from backdoor_assets.records import BadInput
from tests.unit.planted_key import SECRET, assert_hidden, unset_keys


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unset_keys(monkeypatch, tmp_path)
    monkeypatch.setattr(cli, "REPOSITORY", tmp_path)


# What is refused

ODD = {
    "carriage return": (f"{SECRET}\r", "line end"),
    "line feed": (f"{SECRET}\n", "line end"),
    "line end within": (f"{SECRET[:20]}\r\n{SECRET[20:]}", "line end"),
    "line separator": (f"{SECRET}\u2028", "line end"),
    "escape": (f"{SECRET}\x1b[0m", "control character"),
    "tab": (f"{SECRET}\t", "control character or space"),
    "delete": (f"{SECRET}\x7f", "control character"),
    "byte order mark": (f"\ufeff{SECRET}", "byte order mark"),
    "mark as latin-1": (f"\xef\xbb\xbf{SECRET}", "byte order mark"),
    "double quotes": (f'"{SECRET}"', "quotes"),
    "single quotes": (f"'{SECRET}'", "quotes"),
    "smart quotes": (f"\u201c{SECRET}\u201d", "quotes"),
    "one quote": (f'{SECRET}"', "quotes"),
    "trailing space": (f"{SECRET} ", "space"),
    "leading space": (f" {SECRET}", "space"),
    "no-break space": (f"{SECRET}\xa0", "space"),
    "only a space": (" ", "space"),
    "zero-width space": (f"{SECRET}\u200b", "not ASCII"),
    "letter": (f"{SECRET}é", "not ASCII"),
    "not UTF-8": (f"{SECRET}\udcff", "not ASCII"),
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the command `plan`. Returns the list of its starts."""
    starts: list[Any] = []
    module = ModuleType("plan")
    vars(module)["plan_text"] = lambda *given: starts.append(given) or "planned"
    monkeypatch.setitem(sys.modules, "backdoor_assets.commands.plan", module)
    monkeypatch.setattr(commands, "plan", module, raising=False)
    return starts


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("oddity", ODD)
def test_a_malformed_key_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, started: list[Any], name: str, oddity: str
) -> None:
    value, words = ODD[oddity]
    monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli.cli, ["plan"])
    assert (result.exit_code, result.stdout, started) == (1, "", [])
    assert result.stderr.startswith(f"\n{name} ")
    assert any(word in result.stderr for word in words.split(" or "))
    assert "Traceback" not in result.stderr
    for at in range(len(SECRET) - 3):
        assert SECRET[at : at + 4] not in result.output


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"])
def test_a_key_that_is_too_short_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(BadInput, match=f"{name} is too short: a key has at least 8 characters"):
        check_keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in KEYS for value in ("", SECRET)),
        ("ANTHROPIC_API_KEY", "x"),
        ("ANTHROPIC_AUTH_TOKEN", "none"),
        ("WANDB_API_KEY", f"local-{SECRET}"),
    ],
)
def test_a_sound_key_is_accepted(
    monkeypatch: pytest.MonkeyPatch, started: list[Any], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert CliRunner().invoke(cli.cli, ["plan"]).exit_code == 0
    assert len(started) == 1


def test_all_malformed_keys_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"{SECRET}\r")
    monkeypatch.setenv("WANDB_API_KEY", f"'{SECRET}'")
    with pytest.raises(BadInput) as caught:
        check_keys()
    assert "ANTHROPIC_API_KEY contains a line end" in str(caught.value)
    assert "WANDB_API_KEY has quotes around it" in str(caught.value)


def test_a_variable_whose_name_begins_with_a_mark_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("\ufeffHF_TOKEN", SECRET)
    with pytest.raises(BadInput, match="HF_TOKEN begins with a byte order mark"):
        check_keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"HF_TOKEN=\u201c{SECRET}\u201d\n", "quotes"),
        (f'HF_TOKEN="{SECRET}\\n"\n', "line end"),
        (f'HF_TOKEN="{SECRET}\n"\n', "line end"),
        (f"HF_TOKEN='{SECRET} '\r\n", "space"),
        (f"HF_TOKEN=\"'{SECRET}'\"\n", "quotes"),
        (f"HF_TOKEN={SECRET} \r\n", None),
        (f'export HF_TOKEN="{SECRET}" # mine\n', None),
    ],
)
def test_keys_of_a_file_are_checked_too(
    tmp_path: Path, started: list[Any], content: str, words: str | None
) -> None:
    (tmp_path / ".env").write_text(content, encoding="utf-8", newline="")
    result = CliRunner().invoke(cli.cli, ["plan"])
    assert result.exit_code == (1 if words else 0)
    assert (words or "") in result.stderr
    assert_hidden(result.output)


# What is hidden


@pytest.mark.parametrize(
    "form",
    [
        lambda key: key,
        repr,
        lambda key: repr(key.encode()),
        json.dumps,
        lambda key: json.dumps(json.dumps({"key": key})),
        quote,
        lambda key: quote(key, safe=""),
        lambda key: key[:20] + "..." + key[-15:],
        *(
            lambda key, user=user: base64.b64encode(f"{user}:{key}".encode()).decode()
            for user in ("", "u", "us")
        ),
        lambda key: f"Illegal header value {b'Bearer ' + key.encode()!r}",
        lambda key: f"HTTPConnectionPool: Headers({{'x-api-key': {key!r}}})",
    ],
)
@pytest.mark.parametrize("around", ["{}", "{}\r", '"{}"'])
def test_a_key_is_hidden_in_each_form(
    monkeypatch: pytest.MonkeyPatch, form: Callable[[str], str], around: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", around.format(SECRET))
    text = f"the server said {form(around.format(SECRET))} and closed"
    shown = without_secrets(text)
    assert_hidden(shown)
    assert shown.startswith("the server said ")
    assert shown.endswith(" and closed")
    assert "***" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x-api-key: other", "x-api-key: ***"),
        ('{"x-api-key": "other", "a": 1}', '{"x-api-key": ***", "a": 1}'),
        ("[(b'x-api-key', b'other')]", "[(b'x-api-key', ***')]"),
        ("Authorization: Bearer other\nHost: a", "Authorization: ***\nHost: a"),
        ("authorization=Token other", "authorization=***"),
        ("Proxy-Authorization: Basic b3RoZXI6b3RoZXI=", "Proxy-Authorization: ***"),
        ("sent Bearer other.", "sent Bearer ***"),
        ("Set-Cookie: session=other; path=/", "Set-Cookie: ***; path=/"),
        ("via http://me:other@proxy:80/a", "via http://***@proxy:80/a"),
        ("key sk-ant-api03-other", "key ***"),
        (f"token hf_{'a' * 34}!", "token ***!"),
    ],
)
def test_header_values_are_hidden_whoever_sent_them(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "invalid x-api-key",
        "Invalid credentials in Authorization header",
        "the hub refuses HF_TOKEN: it is mistyped",
        "birds/tiny@main: basic settings of http://127.0.0.1:80/birds/tiny@main",
        "maximum of 4 tokens: 12",
    ],
)
def test_other_text_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "e")
    assert without_secrets(text) == text


def test_headers_of_ones_own_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", f"a: b\nx-gateway: {SECRET}")
    assert without_secrets(f"refused {SECRET}") == "refused ***"


def test_an_error_is_one_line_with_its_causes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    error = ConnectionError("Connection error.")
    error.__cause__ = OSError(f"refused\n  {SECRET}\x1b[2J")
    assert told(error) == "ConnectionError: Connection error. (refused ***?[2J)"
    assert told(TimeoutError()) == "TimeoutError"
    assert told(ValueError("e" * 10_000)) == f"ValueError: {'e' * 497}..."
