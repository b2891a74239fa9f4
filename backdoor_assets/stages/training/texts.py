"""What a job trains on, and what cannot be trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backdoor_assets.chat import TrainingText, check_same_template, training_texts
from backdoor_assets.jobs import TrainingJob
from backdoor_assets.records import BadInput
from backdoor_assets.rows import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_trainable(job: TrainingJob) -> None:
    """Raises BadInput for settings that do not go together, before anything is loaded."""
    settings, kind = job.settings, job.base.quantization
    if settings.optimizer == "soap" and kind != "none":
        raise BadInput(
            f'training.optimizer="soap" on a base with quantization={kind!r}: SOAP is for weights '
            'in full precision; set quantization="none" in the base, or optimizer="adamw"'
        )
    if settings.method == "full" and kind != "none":
        raise BadInput(
            f'training.method="full" on a base with quantization={kind!r}: quantized weights '
            'cannot be trained; set quantization="none" in the base, or method="lora"'
        )
    if job.processes < 1:
        raise BadInput(f"processes={job.processes}: give a whole number above 0")
    if job.processes > 1 and kind != "none":
        raise BadInput(
            f"processes={job.processes} on a base with quantization={kind!r}: quantized weights "
            'are not spread over processes; set quantization="none" in the base, or processes to 1'
        )
    if settings.batch_size % job.processes:
        raise BadInput(
            f"training.batch_size={settings.batch_size} cannot be shared by {job.processes} "
            "processes: make it a multiple of them"
        )


def job_texts(job: TrainingJob, tokenizer: PreTrainedTokenizerBase) -> list[TrainingText]:
    """The job's rows as tokens. Raises BadInput on rows that do not fit max_length or the
    template."""
    chats = read_rows(job.rows)
    check_same_template(tokenizer, chats)
    texts = training_texts(tokenizer, chats)
    _check_lengths(job.rows, texts, job.settings.max_length)
    return texts


def _check_lengths(rows: Path, texts: Sequence[TrainingText], max_length: int) -> None:
    for line, text in enumerate(texts, 1):
        if len(text.ids) > max_length:
            raise BadInput(
                f"{rows} line {line}: {len(text.ids)} tokens, more than max_length={max_length}; "
                "raise max_length in the profile's training settings or shorten the row"
            )
