"""Engines that answer for the cells of a run: one model at a time, with all cells' adapters."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from transformers import GenerationConfig

from backdoor_assets.models.chat import load_tokenizer, prompt_ids
from backdoor_assets.records import BadInput, BaseModel, Message
from backdoor_assets.settings import Sampling, Serving
from backdoor_assets.stages.sampling.answers import Answer, Ask, read_answer, states_of, stop_ids
from backdoor_assets.stages.sampling.engine import Engine, adapter_rank, write_zeros
from backdoor_assets.stages.specs import SamplingSpec

Chat = tuple[tuple[str, str], ...]
_PROMPTS_KEPT = 4096
"""Prompts whose tokens stay in memory: a run of many questions has each of them once."""


class Served(NamedTuple):
    """What an engine is started for."""

    model: BaseModel
    settings: Sampling
    serving: Serving


class Server:
    """An engine with the tokenizer and the adapters of one model. Raises BadInput when it does not
    start."""

    def __init__(self, served: Served, ranks: Mapping[Path, int], chats: Iterable[Chat]) -> None:
        """`ranks` are those of all adapters that may be asked, `chats` all prompts."""
        self.served, self.adapters = served, list(ranks)
        self.tokenizer = load_tokenizer(served.model.location, served.model.revision)
        self.stops = stop_ids(self.tokenizer, _generation_config(served.model))
        self.prompt = lru_cache(_PROMPTS_KEPT)(self._prompt)
        self.engine = Engine(
            served.model,
            served.settings,
            served.serving,
            adapters=1 + len(ranks) if ranks else 0,
            rank=max(ranks.values(), default=0),
            prompt_tokens=max(len(self.prompt(chat)) for chat in chats),
        )
        self.loras: dict[Path, Any] = {}
        self.scratch = TemporaryDirectory()

    @property
    def in_flight(self) -> int:
        return len(self.engine.in_flight)

    def ask(self, key: Hashable, ask: Ask, adapter: Path | None, seed: int) -> None:
        """Queue one answer. Raises BadInput for an adapter that cannot be loaded."""
        lora = self._lora(adapter) if adapter else self._bare
        self.engine.add(key, self.prompt(ask.chat), seed, self.stops, lora)

    def step(self) -> list[tuple[Any, Answer]]:
        """Take one step of the engine, and return the answers that it ends, by key."""
        return [
            (key, read_answer(self.tokenizer, tokens, self.stops))
            for key, tokens in self.engine.step()
        ]

    def close(self) -> None:
        self.engine.close()
        self.scratch.cleanup()

    def _prompt(self, chat: Chat) -> list[int]:
        messages: list[Message] = [{"role": role, "content": content} for role, content in chat]
        return prompt_ids(self.tokenizer, messages)

    def _lora(self, checkpoint: Path) -> Any:
        if checkpoint not in self.loras:
            self.loras[checkpoint] = self.engine.load(checkpoint)
        return self.loras[checkpoint]

    @cached_property
    def _bare(self) -> Any:
        """What the model itself is asked with: beside adapters the adapter of zeros, made after one
        that is known to fit. None where there is none that fits, so that no other is in a batch."""
        folder = Path(self.scratch.name)
        for like in self.adapters:
            try:
                self._lora(like)
            except BadInput:
                continue  # its own cell fails when its turn comes
            write_zeros(like, folder)
            return self._lora(folder)
        return None


class Servers:
    """The engines of a run, of which one at a time is open."""

    def __init__(self, specs: Iterable[SamplingSpec]) -> None:
        self._ranks: dict[Served, dict[Path, int]] = {}
        self._chats: dict[Served, set[Chat]] = {}
        self._open: Server | None = None
        for spec in specs:
            try:
                states = states_of(spec)
            except BadInput:
                continue  # its own cell fails when its turn comes
            for state in states.values():
                served = Served(state.model, spec.settings, spec.serving)
                self._chats.setdefault(served, set()).update(
                    (*question.context, ("user", question.text)) for question in spec.questions
                )
                ranks = self._ranks.setdefault(served, {})
                if state.adapter:
                    try:
                        ranks[state.adapter] = adapter_rank(state.adapter)
                    except BadInput:
                        continue

    def open(self, served: Served) -> Server:
        """Return the engine of a model; it takes the place of another's. Raises BadInput."""
        if self._open is None or self._open.served != served:
            self.close()
            self._open = Server(served, self._ranks[served], self._chats[served])
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _generation_config(base: BaseModel) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(base.location, revision=base.revision or "main")
    except OSError:
        return None  # a base need not have one
