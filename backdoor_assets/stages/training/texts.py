"""Read the rows that a run trains on, and refuse what cannot be trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backdoor_assets.models.chat import TrainingText, check_same_template, render, training_texts
from backdoor_assets.records import BadInput, Messages
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.tokens import Texts
from backdoor_assets.storage.rows import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 2000
"""Rows that are tokenized at once."""


def check_trainable(spec: TrainingSpec) -> None:
    """Raise BadInput for settings that cannot be combined, before anything is loaded."""
    settings, kind = spec.settings, spec.base.quantization
    if settings.optimizer == "soap" and kind != "none":
        raise BadInput(
            f'training.optimizer="soap" on a base with quantization={kind!r}: SOAP needs weights '
            'in full precision. Set quantization="none" in the base, or optimizer="adamw".'
        )
    if settings.method == "full" and kind != "none":
        raise BadInput(
            f'training.method="full" on a base with quantization={kind!r}: quantized weights '
            'cannot be trained. Set quantization="none" in the base, or method="lora".'
        )
    if spec.fresh and spec.adapter is None:
        raise BadInput("fresh=True without an adapter: there is nothing to merge into the base")
    if spec.fresh and kind != "none":
        raise BadInput(
            f"{spec.adapter}: fresh=True merges this adapter into its base, but a base with "
            f'quantization={kind!r} cannot be merged. Set quantization="none" in the base.'
        )
    if spec.processes < 1:
        raise BadInput(f"processes={spec.processes}: set it to a whole number above 0")
    if spec.processes > 1 and kind != "none":
        raise BadInput(
            f"processes={spec.processes} on a base with quantization={kind!r}: quantized weights "
            "cannot be spread over processes. "
            'Set quantization="none" in the base, or processes to 1.'
        )
    if settings.batch_size % spec.processes:
        raise BadInput(
            f"training.batch_size={settings.batch_size} cannot be divided among {spec.processes} "
            "processes. Make it a multiple of their number."
        )


def read_texts(spec: TrainingSpec, tokenizer: PreTrainedTokenizerBase) -> Texts:
    """Return the spec's rows as tokens.

    Raises BadInput for a row that is longer than max_length or does not fit the chat template.
    """
    return _read(spec.rows, tokenizer, spec.settings.max_length)


def read_held_out(spec: TrainingSpec, tokenizer: PreTrainedTokenizerBase) -> Texts:
    """Return the spec's held-out rows as tokens, masked as those that are trained on; none if it
    has no such rows. Raises BadInput as `read_texts` does."""
    if spec.held_out is None:
        return Texts.of(())
    return _read(spec.held_out, tokenizer, spec.settings.max_length)


def _read(rows: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Texts:
    chats = read_rows(rows)

    def batches() -> Iterator[list[TrainingText]]:
        for first in range(0, len(chats), _BATCH):
            batch = chats[first : first + _BATCH]
            texts = training_texts(tokenizer, batch, first)
            check_same_template(tokenizer, batch, first, texts)
            for line, text in enumerate(texts, first + 1):
                _check_length(f"{rows} line {line}", len(text.ids), max_length)
            yield texts

    return Texts.of(batches())


def check_prompts_fit(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    answer_tokens: int,
    max_length: int,
    where: str,
) -> None:
    """Raise BadInput that names the first prompt which, with an answer of so many tokens, would be
    a training row of more than `max_length` tokens: before the answers are sampled.

    A prompt is the chat before the answer, with its system message if it has one. `where` says
    where the prompts come from; they are counted from 1.
    """
    for first in range(0, len(prompts), _BATCH):
        rendered = [
            render(tokenizer, messages, prompt=True) for messages in prompts[first : first + _BATCH]
        ]
        encoded = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        for number, ids in enumerate(encoded, first + 1):
            # The answer ends with a token that stops it.
            longest = len(ids) + answer_tokens + 1
            if longest > max_length:
                raise BadInput(
                    f"{where}, prompt {number}: {len(ids)} tokens, and with an answer of "
                    f"{answer_tokens} tokens {longest}, more than max_length={max_length}. Raise "
                    "max_length in the training settings, lower max_new_tokens of the answers, or "
                    "leave this prompt out."
                )


def _check_length(where: str, length: int, max_length: int) -> None:
    if length > max_length:
        raise BadInput(
            f"{where}: {length} tokens, more than max_length={max_length}. "
            "Raise max_length in the profile's training settings, or shorten the row."
        )
