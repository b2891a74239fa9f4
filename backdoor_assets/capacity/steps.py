"""Optimizer steps of a run, and tokens of its rows, before anything is tokenized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from backdoor_assets.settings import Training, planned_steps, saved_steps

_TOKEN_CHARACTERS = 3


def steps_at_most(training: Training, rows: int, like: Sequence[Path]) -> int:
    """Return the optimizer steps of a run over so many rows.

    With packing an estimate that errs upwards: the rows are as long as those of the files `like`
    (JSONL of chats; of several the one with the longest), and a token is three characters. In
    English it is four to five; the file's JSON is counted too, and stands for the chat template.
    """
    sequences = rows
    if training.packing:
        tokens = rows * row_tokens(like)
        sequences = min(rows, max(1, math.ceil(tokens / training.max_length)))
    return planned_steps(training, sequences)


def planned_checkpoints(training: Training, steps: int) -> int:
    """Return how many adapters or models a run of so many steps leaves."""
    return len(saved_steps(training, steps))


def row_tokens(like: Sequence[Path]) -> float:
    """Return the mean tokens of a row, as `steps_at_most` estimates them."""
    return max(map(_mean_characters, like)) / _TOKEN_CHARACTERS


def _mean_characters(path: Path) -> float:
    """Of a line."""
    with path.open(encoding="utf-8") as file:
        return fmean(map(len, file)) if path.stat().st_size else 0.0
