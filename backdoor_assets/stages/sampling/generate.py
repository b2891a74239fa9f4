"""Sampling with transformers: one cell, batch by batch, adapters put on and taken off a base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from backdoor_assets.chat import prompt_ids, token_id
from backdoor_assets.jobs import SamplingJob
from backdoor_assets.models import attach_adapter, load_base
from backdoor_assets.profiles import Sampling
from backdoor_assets.records import Progress, no_progress
from backdoor_assets.stages.sampling.answers import (
    Answer,
    Ask,
    Journal,
    asks_at,
    read_answer,
    seed_of,
    stop_ids,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def sample_cell(job: SamplingJob, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Sample all answers of a cell into `folder`: `Journal.finish` says what the tables hold.

    Each batch has its own seed, made of cell, step and place: a batch that is on disk is not
    sampled again, and an interrupted cell gives the same answers as an uninterrupted one. Raises
    BadInput for an adapter that does not fit.
    """
    model, tokenizer = load_base(job.base, job.settings.precision)
    model.eval()
    journal = Journal(folder)
    size = job.settings.batch_size
    states: list[tuple[int, Path | None]] = [(0, None), *job.checkpoints]
    for done, (step, checkpoint) in enumerate(states):
        asks = asks_at(job, step)
        batches = enumerate(asks[start : start + size] for start in range(0, len(asks), size))
        missing = [
            (seed_of(job.cell, step, number), batch)
            for number, batch in batches
            if not journal.done.issuperset(ask.key for ask in batch)
        ]
        if missing:
            adapted = attach_adapter(model, checkpoint) if checkpoint else None
            sampler: Any = adapted if adapted is not None else model
            try:
                for seed, batch in missing:
                    journal.write(batch, _generate(sampler, tokenizer, batch, job.settings, seed))
            finally:
                if adapted is not None:
                    adapted.unload()
        progress((done + 1) / len(states), f"checkpoint {done + 1}/{len(states)}")
    return journal.finish(job, folder)


@torch.inference_mode()
def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[Ask],
    settings: Sampling,
    seed: int,
) -> list[Answer]:
    """Answers that are sampled together; prompts are padded on the left."""
    texts = {ask.question.text for ask in batch}
    prompts = {text: prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts}
    width = max(len(prompt) for prompt in prompts.values())
    pad = token_id(tokenizer.pad_token_id)
    ids = torch.full((len(batch), width), pad)
    mask = torch.zeros((len(batch), width)).long()
    for row, ask in enumerate(batch):
        prompt = torch.tensor(prompts[ask.question.text])
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    stops = stop_ids(tokenizer, model.generation_config)
    torch.manual_seed(seed)
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        # Spelled out, because a base's own generation_config may narrow the distribution.
        generation_config=GenerationConfig(
            do_sample=settings.temperature > 0,
            temperature=settings.temperature or None,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=stops,
        ),
    )[:, width:].tolist()
    return [read_answer(tokenizer, tokens, stops) for tokens in output]
