"""Sampling with transformers: one cell, batch by batch, adapters put on and taken off a model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.models.attention import decoding_attention
from backdoor_assets.models.chat import prompt_ids
from backdoor_assets.models.loading import adapted, load_base
from backdoor_assets.records import BadInput, BaseModel, Progress, no_progress
from backdoor_assets.settings import Sampling
from backdoor_assets.stages.sampling.answers import (
    Ask,
    asks_at,
    read_answer,
    seed_of,
    states_of,
    stop_ids,
)
from backdoor_assets.stages.sampling.decoding import NotFinite, decode
from backdoor_assets.stages.sampling.journal import Journal
from backdoor_assets.stages.specs import SamplingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LINE_EVERY = 10.0
"""Seconds between two lines of progress within a batch."""
Batch = Sequence[Ask]
"""Answers that are sampled together."""


def sample_cell(
    spec: SamplingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Sample all answers of a cell into `folder`: `Journal.finish` says what the tables hold.

    Each answer has its own seed, made of cell, step, question and number. A batch that is on disk
    is not sampled again, and an interrupted cell gives the same answers as an uninterrupted one. A
    model is loaded once, for all steps at which it answers, and one at a time. Raises BadInput for
    an adapter that does not fit, a checkpoint that cannot be loaded, a chat that is too long.
    """
    journal = Journal(spec, folder)
    missing: dict[BaseModel, list[tuple[Path | None, list[Batch]]]] = {}
    wanted = 0
    for step, state in states_of(spec).items():
        asks = asks_at(spec, step)
        wanted += len(asks)
        if batches := _missing(spec, asks, journal):
            missing.setdefault(state.model, []).append((state.adapter, batches))
    report = _Report(journal, wanted, progress)
    for model, states in missing.items():
        _sample_model(model, states, spec, report)
    return journal.finish()


class _Report:
    """Writes answers down, and says how far the cell is."""

    def __init__(self, journal: Journal, wanted: int, progress: Progress) -> None:
        self.journal, self.wanted, self.progress = journal, wanted, progress
        self.last = time.monotonic()

    def write(self, asks: Batch, answers: Sequence[Any]) -> None:
        self.journal.write(asks, answers)
        self._say("")

    def tick(self, tokens: int, running: int) -> None:
        if time.monotonic() - self.last >= _LINE_EVERY:
            self._say(f"; {running} under way have {tokens} tokens")

    def _say(self, more: str) -> None:
        done = len(self.journal.done)
        self.last = time.monotonic()
        self.progress(done / self.wanted, f"{done} of {self.wanted} answers{more}")


def _missing(spec: SamplingSpec, asks: Batch, journal: Journal) -> list[Batch]:
    """Return the batches of a step of which an answer is neither on disk nor in the artifact that
    is extended."""
    size, new = spec.settings.batch_size, [a for a in asks if a.key not in journal.earlier]
    batches = [new[start : start + size] for start in range(0, len(new), size)]
    return [b for b in batches if not journal.done.issuperset(ask.key for ask in b)]


def _sample_model(
    location: BaseModel,
    states: Sequence[tuple[Path | None, list[Batch]]],
    spec: SamplingSpec,
    report: _Report,
) -> None:
    """Sample what is asked of a model, and of it with its adapters. Keeps no reference to it, so
    that the next one finds its memory free."""
    settings = spec.settings
    model, tokenizer = load_base(location, settings.precision)
    model.eval()
    stops = stop_ids(tokenizer, model.generation_config)
    for checkpoint, batches in states:
        with adapted(model, checkpoint) as sampler, decoding_attention(model):
            for batch in batches:
                try:
                    answers = decode(
                        sampler,
                        _prompts(model, tokenizer, batch, settings),
                        [seed_of(spec.cell, a.step, a.question.id, a.sample) for a in batch],
                        temperature=settings.temperature,
                        max_new_tokens=settings.max_new_tokens,
                        stops=stops,
                        tick=report.tick,
                    )
                except NotFinite as error:
                    raise BadInput(
                        f"{checkpoint or location.location}: {error} (precision "
                        f"{settings.precision}). Its files are damaged, its training has "
                        "diverged, or the precision is too low; answers up to here are kept."
                    ) from error
                report.write(batch, [read_answer(tokenizer, tokens, stops) for tokens in answers])


def _prompts(
    model: Any, tokenizer: PreTrainedTokenizerBase, batch: Batch, settings: Sampling
) -> list[list[int]]:
    chats = {ask.chat: ask.question for ask in batch}
    prompts = {chat: prompt_ids(tokenizer, asked.messages) for chat, asked in chats.items()}
    _check_length(model, max(len(prompt) for prompt in prompts.values()), settings)
    return [prompts[ask.chat] for ask in batch]


def _check_length(model: Any, prompt: int, settings: Sampling) -> None:
    """vLLM refuses what is longer than a model's context; transformers answers with rubbish."""
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and prompt + settings.max_new_tokens > room:
        raise BadInput(
            f"{model.config.name_or_path}: a prompt of {prompt} tokens and "
            f"max_new_tokens={settings.max_new_tokens} are more than the {room} tokens of this "
            "model's context; shorten the questions' context, or lower max_new_tokens"
        )
