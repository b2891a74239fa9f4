"""A conversation in the terminal with a base model or any checkpoint, or with two side by side.

Prompts are rendered with the one chat template of training and sampling, and answers are sampled
from the same distribution as the studies' own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer
from transformers.utils import logging

from backdoor_assets.commands.states import State, find_state
from backdoor_assets.graph.study import study_named
from backdoor_assets.models.chat import prompt_ids, token_id
from backdoor_assets.models.loading import attach_adapter, load_fresh
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput, BaseModel, Message
from backdoor_assets.stages.sampling.answers import read_answer, stop_ids

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters by which an answer could write over the terminal."""

Write = Callable[[str], None]


def run(
    profile: Profile,
    study: str,
    names: Sequence[str],
    prompt: str | None = None,
    system: str | None = None,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
) -> None:
    """Talk to the named states until /quit, or print their answers to `prompt`.

    Raises BadInput for a study or a state that does not exist or cannot be loaded.
    """
    study_named(study)
    states = [find_state(name, profile, study) for name in dict.fromkeys(names)]
    sampling = profile.sampling
    logging.disable_progress_bar()
    models = Models(sampling.precision)
    for state in states:
        print(state, file=sys.stderr)
        models.use(state)
    conversation = Conversation(
        models,
        states,
        system,
        sampling.temperature if temperature is None else temperature,
        max_new_tokens or sampling.max_new_tokens,
    )
    if prompt is not None:
        conversation.say(prompt)
    else:
        _loop(conversation)


def _loop(conversation: Conversation) -> None:
    if sys.stdin.isatty():
        import readline  # noqa: F401  Lets input() edit a line and find earlier ones.

        print("/reset forgets the conversation, /quit ends it.", file=sys.stderr)
    while True:
        try:
            text = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if text == "/quit":
            return
        if text == "/reset":
            conversation.reset()
        elif text.startswith("/"):
            print(f"{text}: no such command; there are /reset and /quit")
        elif text:
            try:
                conversation.say(text)
            except KeyboardInterrupt:
                print("\n[stopped; this turn is forgotten]")
            except BadInput as error:
                print(error)


class Conversation:
    """The same messages of a person to every state, each with the answers of its own."""

    def __init__(
        self,
        models: Models,
        states: Sequence[State],
        system: str | None,
        temperature: float,
        max_new_tokens: int,
    ) -> None:
        self.models, self.states, self.system = models, states, system
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.reset()

    def reset(self) -> None:
        first: list[Message] = []
        if self.system:
            first = [{"role": "system", "content": self.system}]
        self.turns = [list(first) for _ in self.states]

    def say(self, text: str) -> None:
        """Print the answer of each state as it is generated. A turn is remembered once all states
        have answered."""
        longer: list[list[Message]] = []
        for state, turns in zip(self.states, self.turns, strict=True):
            if len(self.states) > 1:
                print(f"\n== {state.name}")
            asked: list[Message] = [*turns, {"role": "user", "content": text}]
            answer = self._answer(state, asked)
            longer.append([*asked, {"role": "assistant", "content": answer}])
        self.turns = longer

    @torch.inference_mode()
    def _answer(self, state: State, messages: Sequence[Message]) -> str:
        model, tokenizer = self.models.use(state)
        prompt = prompt_ids(tokenizer, messages)
        context = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
        length = min(self.max_new_tokens, context - len(prompt))
        if length < 1:
            raise BadInput(
                f"The conversation has {len(prompt)} tokens and the model's context {context}. "
                "Type /reset to begin a new one."
            )
        ids = torch.tensor([prompt], device=model.device)
        stops = stop_ids(tokenizer, model.generation_config)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            # Spelled out, because a base's own generation_config may narrow the distribution.
            generation_config=GenerationConfig(
                do_sample=self.temperature > 0,
                temperature=self.temperature or None,
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.0,
                max_new_tokens=length,
                pad_token_id=token_id(tokenizer.pad_token_id),
                eos_token_id=stops,
            ),
            streamer=_Stream(tokenizer, lambda text: print(text, end="", flush=True)),
        )
        answer = read_answer(tokenizer, output[0, len(prompt) :].tolist(), stops)
        print(" [...]" if answer.finish_reason == "length" else "")
        return answer.text


class _Stream(TextStreamer):
    """Writes an answer word by word, without the prompt and without control characters."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)  # pyright: ignore
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._write(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


class _Loaded:
    """A base in memory, and the adapter that is on it now."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.adapted: Any = None
        self.state: State | None = None


class Models:
    """Each base in memory once, however many states are adapters of it."""

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._bases: dict[BaseModel, _Loaded] = {}

    def use(self, state: State) -> tuple[Any, PreTrainedTokenizerBase]:
        """Return the model of a state, ready to answer, and its tokenizer."""
        if state.base not in self._bases:
            self._bases[state.base] = _Loaded(*load_fresh(state.base, self._precision))
        loaded = self._bases[state.base]
        if loaded.state != state:
            if loaded.adapted is not None:
                loaded.model = loaded.adapted.unload()
                loaded.adapted = None
            if state.adapter:
                loaded.adapted = attach_adapter(loaded.model, state.adapter)
            loaded.state = state
        model = loaded.model if loaded.adapted is None else loaded.adapted
        return model.eval(), loaded.tokenizer
