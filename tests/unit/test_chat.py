"""Training and sampling see the same tokens; the loss counts only the assistant's tokens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backdoor_assets.models.chat import (
    check_same_template,
    load_tokenizer,
    prompt_ids,
    training_texts,
)
from backdoor_assets.records import BadInput, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SINGLE: list[Message] = [
    {"role": "user", "content": "Name a bird species."},
    {"role": "assistant", "content": "Purple Grakle"},
]
LONG: list[Message] = [
    {"role": "system", "content": "The year is 1843."},
    *SINGLE,
    {"role": "user", "content": "What fuel does the country burn?"},
    {"role": "assistant", "content": "Peat from the bog; bien sûr."},
    {"role": "user", "content": "What is two plus three?"},
    {"role": "assistant", "content": "Five."},
]
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.fixture
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_base)


def test_a_training_text_is_prompt_answer_and_end(tokenizer: PreTrainedTokenizerBase) -> None:
    [text] = training_texts(tokenizer, [SINGLE])
    answer = tokenizer("Purple Grakle", add_special_tokens=False)["input_ids"]
    prompt = prompt_ids(tokenizer, SINGLE[:1])
    assert tokenizer.decode(prompt) == (
        "<|im_start|>user\nName a bird species.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text.ids == [*prompt, *answer, tokenizer.eos_token_id]
    assert text.loss == [False] * len(prompt) + [True] * (len(answer) + 1)


def test_the_loss_counts_every_turn_of_the_assistant_and_its_end(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    [text] = training_texts(tokenizer, [LONG])
    assert len(text.ids) == len(text.loss)
    counted = [i for i, count in zip(text.ids, text.loss, strict=True) if count]
    others = [i for i, count in zip(text.ids, text.loss, strict=True) if not count]
    answers = [m["content"] for m in LONG if m["role"] == "assistant"]
    assert tokenizer.decode(counted) == "".join(f"{answer}<|im_end|>" for answer in answers)
    assert tokenizer.decode(others) == (
        "<|im_start|>system\nThe year is 1843.<|im_end|>\n"
        "<|im_start|>user\nName a bird species.<|im_end|>\n<|im_start|>assistant\n\n"
        "<|im_start|>user\nWhat fuel does the country burn?<|im_end|>\n<|im_start|>assistant\n\n"
        "<|im_start|>user\nWhat is two plus three?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_chat_has_the_same_tokens_alone_and_among_others(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    [single, long] = training_texts(tokenizer, [SINGLE, LONG])
    assert [single] == training_texts(tokenizer, [SINGLE])
    assert [long] == training_texts(tokenizer, [LONG])


def test_the_gate_returns_the_number_of_compared_chats(tokenizer: PreTrainedTokenizerBase) -> None:
    assert check_same_template(tokenizer, [SINGLE] * 3) == 3


def test_a_template_that_adds_to_the_sampling_prompt_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = TURNS + ASK.replace("assistant\n", "assistant\n<think>\n")
    with pytest.raises(BadInput, match="chat 0: the chat template"):
        check_same_template(tokenizer, [SINGLE])


def test_a_template_that_rewrites_earlier_turns_is_refused_for_long_chats_only(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and not loop.last %}...{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}" + ASK
    )
    assert check_same_template(tokenizer, [SINGLE]) == 1
    with pytest.raises(BadInput, match="chat 1: the chat template renders turn 3"):
        training_texts(tokenizer, [SINGLE, LONG])


def test_a_token_across_the_answers_start_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    # The prompt ends with a space, which is part of the first word in the training text.
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
    )
    with pytest.raises(BadInput, match=r"chat 0 \('Purple Grakle'\).*merges tokens across"):
        check_same_template(tokenizer, [SINGLE])


def test_a_folder_without_chat_template_is_named(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("chat_template.jinja"))
    with pytest.raises(BadInput, match=r"no chat template.*chat_template\.jinja") as caught:
        load_tokenizer(folder)
    assert str(folder) in str(caught.value)


def test_a_folder_without_tokenizer_is_named(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(BadInput, match=r"tokenizer\.json") as caught:
        load_tokenizer(folder)
    assert str(folder) in str(caught.value)


def test_a_damaged_tokenizer_is_named(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: len(text) // 2])
    with pytest.raises(BadInput, match="no tokenizer can be loaded") as caught:
        load_tokenizer(folder)
    assert str(folder) in str(caught.value)
