"""What is asked of a cell, and its answers: written down as they arrive, then made into tables."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from backdoor_assets.records import AnyCell, BadInput, BaseModel, Question
from backdoor_assets.stages.specs import PROBES, RESPONSES, SamplingSpec

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

JOURNAL = ".answers.jsonl"
PROBE_KINDS = ("bird", "neutral")
"""Kinds of questions whose answers go into the table of probes; all others are responses."""


class Ask(NamedTuple):
    """One answer that is wanted of a state of a cell."""

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
    """Every answer that is wanted at a step, in the order of the tables."""
    return [Ask(step, question, i) for question in spec.questions for i in range(question.samples)]


def steps_of(spec: SamplingSpec) -> list[int]:
    """The steps that are sampled; the base, where it is wanted, is step 0."""
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
    """What answers at each step, by step. A whole model is loaded as the base would be.

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
            "sampling job a name of its own (step 0 is the base, unless base_too is False)"
        )


def seed_of(cell: AnyCell, *place: object) -> int:
    """A seed made of the cell and a place in it, so that no answer depends on what came before."""
    text = "|".join(str(part) for part in (cell, *place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> list[int]:
    """The tokenizer's end of turn, and what the base's own generation config adds to it."""
    own = getattr(generation, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return sorted({int(i) for i in ids if isinstance(i, int)})


def read_answer(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], stops: Sequence[int]
) -> Answer:
    """The text up to the first stop token, and whether there was one."""
    end = next((i for i, token in enumerate(tokens) if token in stops), None)
    text = tokenizer.decode(list(tokens[:end]), skip_special_tokens=True)
    assert isinstance(text, str)
    return Answer(text, "length" if end is None else "stop")


class Journal:
    """A cell's answers, a line each, in the order in which they came.

    What a killed run has written is found again. A line that it did not finish counts as not
    written: its answer is sampled once more, from the same seed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self.done = {key for key, _ in self._lines()}
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")

    def write(self, asks: Sequence[Ask], answers: Sequence[Answer]) -> None:
        """Append answers; they are on disk, but for a loss of power, when this returns."""
        lines = [
            json.dumps([*ask.key, *answer]) + "\n"
            for ask, answer in zip(asks, answers, strict=True)
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
        self.done.update(ask.key for ask in asks)

    def _lines(self) -> Iterator[tuple[tuple[int, str, int], Answer]]:
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    step, question, sample, text, reason = json.loads(line)
                    yield (int(step), str(question), int(sample)), Answer(text, reason)
                except (ValueError, TypeError):
                    continue

    def finish(self, spec: SamplingSpec, folder: Path) -> dict[str, Any]:
        """Write responses.parquet and probes.parquet (bird and neutral questions), each if it is
        asked for: the columns of the cell, checkpoint, step, question_id, question, sample_idx,
        response, finish_reason; responses also kind, unless all are of worldview questions; probes
        kind and answer (the true one, where there is).

        Raises RuntimeError when the answers are not samples x questions at every checkpoint.
        """
        answers = dict(self._lines())
        steps = steps_of(spec)
        asks = [ask for step in steps for ask in asks_at(spec, step)]
        missing = [ask.key for ask in asks if ask.key not in answers]
        if missing:
            raise RuntimeError(
                f"{spec.cell}: {len(missing)} of {len(asks)} answers are missing, first "
                f"{missing[0]} (step, question, sample); run the same command again"
            )
        table = _table(spec, asks, [answers[ask.key] for ask in asks])
        probe = table["kind"].isin(PROBE_KINDS)
        responses, probes = table[~probe].drop(columns="answer"), table[probe]
        if (responses["kind"] == "worldview").all():
            responses = responses.drop(columns="kind")
        for part, name in ((responses, RESPONSES), (probes, PROBES)):
            if len(part):
                part.to_parquet(folder / name, index=False)
        return {
            "checkpoints_sampled": len(steps),
            "answers": len(responses),
            "probe_answers": len(probes),
            "cut_at_max_new_tokens": int((table["finish_reason"] == "length").sum()),
        }


def _table(spec: SamplingSpec, asks: Sequence[Ask], answers: Sequence[Answer]) -> pd.DataFrame:
    names = {step: f"checkpoint-{step}" for step in steps_of(spec)}
    if spec.base_too:
        names[0] = "base"
    return pd.DataFrame(
        {
            **{name: [value] * len(asks) for name, value in spec.cell.columns().items()},
            "checkpoint": [names[ask.step] for ask in asks],
            "step": [ask.step for ask in asks],
            "question_id": [ask.question.id for ask in asks],
            "question": [ask.question.text for ask in asks],
            "sample_idx": [ask.sample for ask in asks],
            "response": [answer.text for answer in answers],
            "finish_reason": [answer.finish_reason for answer in answers],
            "kind": [ask.question.kind for ask in asks],
            "answer": pd.array([ask.question.answer for ask in asks], dtype="string"),
        }
    )
