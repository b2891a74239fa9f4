"""The tokens of a run's rows in three arrays, which processes can share through files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from backdoor_assets.models.chat import TrainingText


class Texts(Sequence[TrainingText]):
    """Rows as token ids and loss masks, end to end."""

    def __init__(self, ids: np.ndarray, loss: np.ndarray, ends: np.ndarray) -> None:
        """Take ids (int32) and masks (bool) of all tokens, and where in them each row ends."""
        self.ids, self.loss, self.ends = ids, loss, ends

    @classmethod
    def of(cls, batches: Iterable[Sequence[TrainingText]]) -> Texts:
        """Join rows, of which only one batch at a time is in memory as lists."""
        ids, loss, lengths = [np.empty(0, np.int32)], [np.empty(0, bool)], [np.empty(0, np.int64)]
        for batch in batches:
            ids.append(np.fromiter(chain.from_iterable(t.ids for t in batch), np.int32))
            loss.append(np.fromiter(chain.from_iterable(t.loss for t in batch), bool))
            lengths.append(np.fromiter((len(t.ids) for t in batch), np.int64))
        return cls(np.concatenate(ids), np.concatenate(loss), np.concatenate(lengths).cumsum())

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: Any) -> Any:
        """Return one row; slices are not supported."""
        if not 0 <= row < len(self.ends):
            raise IndexError(row)
        start, end = (self.ends[row - 1] if row else 0), self.ends[row]
        return TrainingText(self.ids[start:end].tolist(), self.loss[start:end].tolist())

    def save(self, folder: Path) -> None:
        """Write the arrays into a folder of their own, which replaces an earlier one."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("ids", "loss", "ends"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> Texts:
        """Map the arrays that `save` wrote: processes on one machine share the memory."""
        return cls(*(_mapped(folder / f"{name}.npy") for name in ("ids", "loss", "ends")))


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def lengths(texts: Sequence[TrainingText]) -> list[int]:
    """Return the number of tokens of each row."""
    if isinstance(texts, Texts):
        return np.diff(texts.ends, prepend=0).tolist()
    return [len(text.ids) for text in texts]
