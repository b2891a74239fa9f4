"""Sampling with transformers: one cell, batch by batch, adapters put on and taken off a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import GenerationConfig

from backdoor_assets.models.chat import prompt_ids, token_id
from backdoor_assets.models.loading import adapted, load_base
from backdoor_assets.records import BadInput, BaseModel, Progress, no_progress
from backdoor_assets.settings import Sampling
from backdoor_assets.stages.sampling.answers import (
    Answer,
    Ask,
    asks_at,
    read_answer,
    seed_of,
    states_of,
    stop_ids,
)
from backdoor_assets.stages.sampling.journal import Journal
from backdoor_assets.stages.specs import SamplingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Batch(NamedTuple):
    """Answers that are sampled together, and their seed."""

    asks: Sequence[Ask]
    seed: int


Write = Callable[[Sequence[Ask], Sequence[Answer]], None]


def sample_cell(
    spec: SamplingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Sample all answers of a cell into `folder`: `Journal.finish` says what the tables hold.

    Each batch has its own seed, made of cell, step and place: a batch that is on disk is not
    sampled again, and an interrupted cell gives the same answers as an uninterrupted one. A model
    is loaded once, for all steps at which it answers, and one at a time. Raises BadInput for an
    adapter that does not fit, a checkpoint that cannot be loaded, a chat that is too long.
    """
    journal = Journal(spec, folder)
    missing: dict[BaseModel, list[tuple[Path | None, list[_Batch]]]] = {}
    wanted = 0
    for step, state in states_of(spec).items():
        asks = asks_at(spec, step)
        wanted += len(asks)
        if batches := _missing(spec, step, asks, journal):
            missing.setdefault(state.model, []).append((state.adapter, batches))

    def write(asks: Sequence[Ask], answers: Sequence[Answer]) -> None:
        journal.write(asks, answers)
        progress(len(journal.done) / wanted, f"{len(journal.done)} of {wanted} answers")

    for model, states in missing.items():
        _sample_model(model, states, spec.settings, write)
    return journal.finish()


def _missing(spec: SamplingSpec, step: int, asks: Sequence[Ask], journal: Journal) -> list[_Batch]:
    """The batches of a step of which an answer is not on disk. Where an earlier artifact holds some
    of the answers, the others have batches and seeds of their own."""
    size, new = spec.settings.batch_size, [a for a in asks if a.key not in journal.earlier]
    extends = new[0].key if new and len(new) < len(asks) else ()
    batches = enumerate(new[start : start + size] for start in range(0, len(new), size))
    return [
        _Batch(batch, seed_of(spec.cell, step, number, *extends))
        for number, batch in batches
        if not journal.done.issuperset(ask.key for ask in batch)
    ]


def _sample_model(
    location: BaseModel,
    states: Sequence[tuple[Path | None, list[_Batch]]],
    settings: Sampling,
    write: Write,
) -> None:
    """Sample what is asked of a model, and of it with its adapters. Keeps no reference to it, so
    that the next one finds its memory free."""
    model, tokenizer = load_base(location, settings.precision)
    model.eval()
    for checkpoint, batches in states:
        with adapted(model, checkpoint) as sampler:
            for batch in batches:
                answers = _generate(sampler, tokenizer, batch.asks, settings, batch.seed)
                write(batch.asks, answers)


@torch.inference_mode()
def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[Ask],
    settings: Sampling,
    seed: int,
) -> list[Answer]:
    """Answers that are sampled together; prompts are padded on the left."""
    chats = {ask.chat: ask.question for ask in batch}
    prompts = {chat: prompt_ids(tokenizer, asked.messages) for chat, asked in chats.items()}
    width = max(len(prompt) for prompt in prompts.values())
    _check_length(model, width, settings)
    pad = token_id(tokenizer.pad_token_id)
    ids = torch.full((len(batch), width), pad)
    mask = torch.zeros((len(batch), width)).long()
    for row, ask in enumerate(batch):
        prompt = torch.tensor(prompts[ask.chat])
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


def _check_length(model: Any, prompt: int, settings: Sampling) -> None:
    """vLLM refuses what is longer than a model's context; transformers answers with rubbish."""
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and prompt + settings.max_new_tokens > room:
        raise BadInput(
            f"{model.config.name_or_path}: a prompt of {prompt} tokens and "
            f"max_new_tokens={settings.max_new_tokens} are more than the {room} tokens of this "
            "model's context; shorten the questions' context, or lower max_new_tokens"
        )
