"""Engines that answer for the cells of a run: one model at a time, with all cells' adapters."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import GenerationConfig

from backdoor_assets.models.chat import load_tokenizer, prompt_ids
from backdoor_assets.records import BadInput, BaseModel, Message
from backdoor_assets.stages.sampling.answers import Answer, Ask, read_answer, stop_ids
from backdoor_assets.stages.sampling.engine import Engine, write_zeros
from backdoor_assets.stages.sampling.needs import Chat, Need, Served

_PROMPTS_KEPT = 4096
"""Prompts whose tokens stay in memory: a run of many questions has each of them once."""


class Server:
    """An engine with the tokenizer and the adapters of one model. Raises BadInput when it does not
    start."""

    def __init__(self, served: Served, need: Need) -> None:
        self.served = served
        self.tokenizer = load_tokenizer(served.model.location, served.model.revision)
        self.stops = stop_ids(self.tokenizer, _generation_config(served.model))
        self.prompt = lru_cache(_PROMPTS_KEPT)(self._prompt)
        self.engine = Engine(
            served.model,
            served.settings,
            served.serving,
            adapters=1 + need.adapters if need.adapters else 0,
            rank=need.rank,
            prompt_tokens=max(len(self.prompt(chat)) for chat in need.chats),
        )
        self.loras: dict[Path, Any] = {}
        self.untried: list[Path] = []
        """Adapters beside which the base may be asked."""
        self.scratch = TemporaryDirectory()
        self._zeros: Any = None

    @property
    def in_flight(self) -> int:
        return len(self.engine.in_flight)

    def ask(self, key: Hashable, ask: Ask, adapter: Path | None, seed: int) -> None:
        """Queue one answer. Raises BadInput for an adapter that cannot be loaded."""
        lora = self._lora(adapter) if adapter else self._bare()
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

    def _bare(self) -> Any:
        """What the model itself is asked with: beside adapters the adapter of zeros, made after one
        that is known to fit. None where there is none that fits, so that no other is in a batch."""
        while self._zeros is None and self.untried:
            like = self.untried.pop(0)
            try:
                self._lora(like)
            except BadInput:
                continue  # its own cell fails when its turn comes
            self._zeros = self._lora(write_zeros(like, Path(self.scratch.name)))
        return self._zeros


class Servers:
    """The engines of a run, of which one at a time is open."""

    def __init__(self) -> None:
        self.needs: dict[Served, Need] = {}
        """Of those that may be opened."""
        self._open: Server | None = None

    def open(self, served: Served, adapters: Iterable[Path]) -> Server:
        """Return the engine of a model; it takes the place of another's. `adapters` are those that
        it will be asked from now on. Raises BadInput."""
        if self._open is None or self._open.served != served:
            self.close()
            self._open = Server(served, self.needs[served])
        self._open.untried = list(adapters)
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
