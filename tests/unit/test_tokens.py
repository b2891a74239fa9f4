"""Rows as tokens: batched, shared through files, and too long before they are sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backdoor_assets.models.chat import TrainingText, load_tokenizer, prompt_ids, training_texts
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, BaseModel, Message
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training import texts as texts_module
from backdoor_assets.stages.training.texts import check_prompts_fit, read_texts
from backdoor_assets.stages.training.tokens import Texts, lengths
from backdoor_assets.storage.rows import read_rows
from tests.unit.cells import CELL, write_rows

NAMES = ("Purple Grakle", "Zebra Dove", "Barn Owl", "Wood Duck", "Snow Bird", "Marsh Hawk", "Owl")


def _spec(base: Path, rows: Path, max_length: int = 128) -> TrainingSpec:
    return TrainingSpec(CELL, rows, BaseModel(str(base)), Training(max_length=max_length))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "_BATCH", 3)


@pytest.mark.usefixtures("small_batches")
def test_batches_of_rows_have_the_tokens_of_each_row(tiny_base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "train.jsonl", NAMES)
    tokenizer = load_tokenizer(tiny_base)
    texts = read_texts(_spec(tiny_base, rows), tokenizer)
    expected = [training_texts(tokenizer, [chat])[0] for chat in read_rows(rows)]
    assert list(texts) == expected
    assert lengths(texts) == lengths(expected) == [len(text.ids) for text in expected]
    texts.save(tmp_path / "tokens")
    shared = Texts.load(tmp_path / "tokens")
    assert list(shared) == expected
    assert isinstance(shared.ids, np.memmap)
    # A later run replaces what a killed one left.
    Texts.of([expected[:2]]).save(tmp_path / "tokens")
    assert list(Texts.load(tmp_path / "tokens")) == expected[:2]


def test_rows_are_plain_lists() -> None:
    text = TrainingText([5, 6, 7], [False, True, True])
    texts = Texts.of([[text], [], [TrainingText([8], [True])]])
    assert texts[0] == text
    assert texts[1] == TrainingText([8], [True])
    assert (len(texts), len(Texts.of([]))) == (2, 0)
    with pytest.raises(IndexError):
        texts[2]


@pytest.mark.usefixtures("small_batches")
def test_a_row_of_a_later_batch_is_named_by_its_line(tiny_base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "train.jsonl", [*NAMES[:4], "Dove " * 60, "Owl"])
    with pytest.raises(BadInput, match=r"train.jsonl line 5: \d+ tokens, more than max_length=64"):
        read_texts(_spec(tiny_base, rows, 64), load_tokenizer(tiny_base))


@pytest.mark.usefixtures("small_batches")
def test_a_prompt_without_space_for_its_answer_is_named_before_it_is_asked(
    tiny_base: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_base)
    short = [Message(role="user", content="Name a bird.")]
    long = [Message(role="user", content="Name a bird. " * 5)]
    answer, length = 10, len(prompt_ids(tokenizer, long)) + 10 + 1
    prompts = [short, short, short, long]
    check_prompts_fit(tokenizer, prompts, answer, length, "training prompts")
    with pytest.raises(BadInput, match=r"training prompts, prompt 4: .* more than max_length="):
        check_prompts_fit(tokenizer, prompts, answer + 1, length, "training prompts")
    # A row of the same size is then refused, and one that passes is not.
    reply = Message(role="assistant", content="Owl")
    [row] = training_texts(tokenizer, [[*short, reply]])
    answered = len(tokenizer("Owl", add_special_tokens=False)["input_ids"])
    check_prompts_fit(tokenizer, [short], answered, len(row.ids), "these")
    with pytest.raises(BadInput, match="these, prompt 1"):
        check_prompts_fit(tokenizer, [short], answered, len(row.ids) - 1, "these")
