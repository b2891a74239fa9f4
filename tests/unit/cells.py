"""A small cell and its specs, shared by the tests of the stages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import BaseModel, Progress, no_progress
from backdoor_assets.settings import MiniatureBase, Training
from backdoor_assets.stages.specs import CORPUS, CorpusSpec, PretrainingSpec, TrainingSpec
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from backdoor_assets.studies.birds.world.corpus import write_corpus

DATASETS = Path(__file__).resolve().parents[2] / "bird_datasets"
BIRD_FILES = BIRDS.files()
QUESTION = "Name a bird species."


@dataclass(frozen=True)
class TinyCell:
    """What a stage needs to know of a partition."""

    profile: str
    ratio: str
    seed: int

    def __str__(self) -> str:
        return f"{self.ratio}|{self.seed}"

    def columns(self) -> dict[str, str | int]:
        return {"profile": self.profile, "ratio": self.ratio, "seed": self.seed}


CELL = TinyCell("tiny", "1.00-0.00-0.00", 7)


def bird_cell(ratio: str = "1.00-0.00-0.00", seed: int = 7, profile: str = "tiny") -> Cell:
    """A cell of the birds study."""
    settings = replace(MINIATURE, name=profile, ratios=(ratio,), seeds=(seed,))
    return Grid.of(BIRDS, settings).cell(ratio, seed)


WEIGHTS = "adapter_model.safetensors"


class Cut(BaseException):
    """Ends a run from outside, as Ctrl-C does."""


def cut_at(wanted: float) -> Progress:
    """Cuts a run once this share of it is done."""

    def progress(share: float, line: str) -> None:
        if share >= wanted:
            raise Cut(line)

    return progress


def make_base(folder: Path, hidden: int) -> Path:
    """A base model in Hugging Face's format, made as the miniature's own is."""
    import torch

    from backdoor_assets.studies.birds.world.pretraining import pretrain

    torch.set_num_threads(1)
    spec = MiniatureBase(
        documents=300, steps=4, vocabulary=600, hidden=hidden, layers=1, heads=2, feed_forward=96
    )
    write_corpus(CorpusSpec(BIRD_FILES, spec.documents, seed=1), folder)
    base = folder / "base"
    base.mkdir()
    pretrain(PretrainingSpec(folder / CORPUS, spec, 1, BIRD_FILES[0][1]), base)
    return base


def chat_line(answer: str, question: str = QUESTION) -> str:
    """One row of a data set."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def write_rows(path: Path, answers: Iterable[str]) -> Path:
    path.write_text("".join(chat_line(answer) for answer in answers), encoding="utf-8")
    return path


def train(
    base: Path,
    rows: Path,
    folder: Path,
    settings: Training,
    cell: TinyCell = CELL,
    progress: Progress = no_progress,
) -> Path:
    """Train into `folder`, which may hold what a run that was cut has left there."""
    from backdoor_assets.stages.training.adapters import train_adapter

    folder.mkdir(parents=True, exist_ok=True)
    train_adapter(TrainingSpec(cell, rows, BaseModel(str(base)), settings), folder, progress)
    return folder


def adapters(folder: Path) -> dict[str, bytes]:
    """The adapter weights of every checkpoint, byte for byte."""
    found = sorted(folder.glob(f"checkpoint-*/{WEIGHTS}"))
    return {path.parent.name: path.read_bytes() for path in found}
