"""What is asked of a cell, of which state, with which seed, and what counts as an answer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backdoor_assets.records import AnyCell, BadInput, BaseModel, Question
from backdoor_assets.stages.specs import SamplingSpec

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


class Ask(NamedTuple):
    """One answer of a state of a cell."""

    step: int
    question: Question
    sample: int

    @property
    def key(self) -> tuple[int, str, int]:
        return self.step, self.question.id, self.sample

    @property
    def chat(self) -> tuple[tuple[str, str], ...]:
        """The whole prompt: two questions of the same text may differ in what comes before."""
        return *self.question.context, ("user", self.question.text)


class Answer(NamedTuple):
    text: str
    finish_reason: str
    """ "stop" or "length"."""


def asks_at(spec: SamplingSpec, step: int) -> list[Ask]:
    """Return all answers that a step needs, in the order of the tables."""
    return [Ask(step, question, i) for question in spec.questions for i in range(question.samples)]


def steps_of(spec: SamplingSpec) -> list[int]:
    """Return the steps that are sampled; the base is step 0."""
    return [*([0] if spec.base_too else []), *(step for step, _ in spec.checkpoints)]


class State(NamedTuple):
    """What answers at a step: a model, and the adapter on it."""

    model: BaseModel
    adapter: Path | None


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint holds all weights of a model, and no adapter of its base."""
    return (checkpoint / "config.json").exists() and not (
        checkpoint / "adapter_config.json"
    ).exists()


def states_of(spec: SamplingSpec) -> dict[int, State]:
    """Return what answers at each step. A whole model is loaded as the base would be.

    Raises BadInput for a step or an id of a question that occurs twice: the answers to one of the
    two would stand for both.
    """
    _check_unique(spec, "step", steps_of(spec))
    _check_unique(spec, "question", [question.id for question in spec.questions])
    states = {0: State(spec.base, None)} if spec.base_too else {}
    for step, checkpoint in spec.checkpoints:
        if is_whole(checkpoint):
            whole = replace(spec.base, location=str(checkpoint), revision=None)
            states[step] = State(whole, None)
        else:
            states[step] = State(spec.base, checkpoint)
    return states


def _check_unique(spec: SamplingSpec, what: str, names: Sequence[object]) -> None:
    name, count = next(iter(Counter(names).most_common(1)), (None, 0))
    if count > 1:
        raise BadInput(
            f"{spec.cell}: {what} {name!r} is to be sampled {count} times; give each {what} of a "
            "sampling spec a name of its own (step 0 is the base, unless base_too is False)"
        )


def seed_of(cell: AnyCell, *place: object) -> int:
    """Return a seed made of the cell and a place in it: no answer depends on what came before."""
    text = "|".join(str(part) for part in (cell, *place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> list[int]:
    """Return the tokenizer's end of turn, and what the base's generation config adds to it."""
    own = getattr(generation, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return sorted({int(i) for i in ids if isinstance(i, int)})


def read_answer(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], stops: Sequence[int]
) -> Answer:
    """Return the text up to the first stop token, and whether there was one."""
    end = next((i for i, token in enumerate(tokens) if token in stops), None)
    text = tokenizer.decode(list(tokens[:end]), skip_special_tokens=True)
    assert isinstance(text, str)
    return Answer(text, "length" if end is None else "stop")
