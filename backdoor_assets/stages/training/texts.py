"""Read the rows that a run trains on, and refuse what cannot be trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backdoor_assets.models.chat import TrainingText, check_same_template, training_texts
from backdoor_assets.records import BadInput
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.storage.rows import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def read_texts(spec: TrainingSpec, tokenizer: PreTrainedTokenizerBase) -> list[TrainingText]:
    """Return the spec's rows as tokens.

    Raises BadInput for a row that is longer than max_length or does not fit the chat template.
    """
    chats = read_rows(spec.rows)
    check_same_template(tokenizer, chats)
    texts = training_texts(tokenizer, chats)
    _check_lengths(spec.rows, texts, spec.settings.max_length)
    return texts


def _check_lengths(rows: Path, texts: Sequence[TrainingText], max_length: int) -> None:
    for line, text in enumerate(texts, 1):
        if len(text.ids) > max_length:
            raise BadInput(
                f"{rows} line {line}: {len(text.ids)} tokens, more than max_length={max_length}. "
                "Raise max_length in the profile's training settings, or shorten the row."
            )
