"""A key that tests plant, and what they assert: that no part of it is anywhere."""

from __future__ import annotations

import base64
import traceback
from pathlib import Path

import pytest

from backdoor_assets.credentials import KEYS

SECRET = "Zq7XvKp2Wd9RtYb4Hn6Js8Lc3Mf5Gx1Qa0EuTiOz"
"""40 characters; no four in a row are in any message."""


def unset_keys(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Unset the keys of a developer's machine, also after what a test does to the environment."""
    for name in (*KEYS, "ANTHROPIC_CUSTOM_HEADERS"):
        patch.setenv(name, "")
        patch.delenv(name)
    patch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "token"))


def assert_hidden(text: str | bytes) -> None:
    """Assert that no eight characters of the key are in a text, plain or in base64."""
    content = text.encode() if isinstance(text, str) else text
    forms = [SECRET.encode(), *(base64.b64encode(b"x" * n + SECRET.encode()) for n in range(3))]
    for form in forms:
        found = [
            form[at : at + 8] for at in range(4, len(form) - 7) if form[at : at + 8] in content
        ]
        assert not found, content[:2000]


def assert_hidden_in(*folders: Path) -> int:
    """Assert it of every file in the folders. Returns how many there are."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert_hidden(path.read_bytes())
    return len(files)


def shown(error: BaseException) -> str:
    """Return what Dagster and Python show of an error, its causes included."""
    return "".join(traceback.format_exception(error))
