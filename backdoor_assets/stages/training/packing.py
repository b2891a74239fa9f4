"""Micro-batches of a run: one row per sequence, or several rows packed into each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from backdoor_assets.models.chat import TrainingText
from backdoor_assets.settings import Training
from backdoor_assets.stages.training.tokens import lengths


class PackedText(NamedTuple):
    """Several rows concatenated into one sequence.

    `positions` restart at 0 with each row, which tells the model where attention ends. The first
    token of a row is never in the loss, because no token of that row precedes it.
    """

    ids: list[int]
    loss: list[bool]
    positions: list[int]


def pack(rows: Sequence[TrainingText]) -> PackedText:
    """Concatenate rows into one sequence, in this order."""
    packed = PackedText([], [], [])
    for row in rows:
        packed.ids.extend(row.ids)
        packed.loss.extend([False, *row.loss[1:]])
        packed.positions.extend(range(len(row.ids)))
    return packed


def packed_rows(
    row_lengths: Sequence[int], order: Sequence[int], max_length: int
) -> list[list[int]]:
    """Assign rows to sequences of at most `max_length` tokens by best fit.

    Rows are placed from the longest to the shortest (rows of equal length in `order`), each into
    the fullest sequence that it still fits. The number of sequences depends only on the lengths,
    so that it is the same in every epoch.
    """
    sequences: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    spaces = 0  # Bit s is set if some sequence has space for exactly s more tokens.
    for row in sorted(order, key=lambda row: -row_lengths[row]):
        length = row_lengths[row]
        enough = spaces >> length
        if enough:
            space = length + (enough & -enough).bit_length() - 1
            number = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
        else:
            space, number = max_length, len(sequences)
            sequences.append([])
        sequences[number].append(row)
        by_space.setdefault(space - length, []).append(number)
        spaces |= 1 << (space - length)
    return sequences


def count_sequences(texts: Sequence[TrainingText], settings: Training) -> int:
    """Return the number of sequences in one epoch; `batch_size` of them make a micro-batch."""
    if not settings.packing:
        return len(texts)
    return len(packed_rows(lengths(texts), range(len(texts)), settings.max_length))


def micro_batches(
    texts: Sequence[TrainingText], settings: Training, seed: int
) -> Iterator[list[TrainingText]]:
    """Yield micro-batches without end, with the rows in a new order in each epoch.

    The order depends only on the seed and the epoch, so that a resumed run finds its place by
    counting.
    """
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < settings.batch_size:
            queue += torch.randperm(len(texts), generator=generator).tolist()
        yield [texts[i] for i in queue[: settings.batch_size]]
        del queue[: settings.batch_size]


def packed_batches(
    texts: Sequence[TrainingText], settings: Training, seed: int
) -> Iterator[list[PackedText]]:
    """Yield micro-batches of packed sequences without end.

    Each epoch packs the rows in a new order, which depends only on the seed and the epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    row_lengths = lengths(texts)
    queue: list[list[int]] = []
    while True:
        while len(queue) < settings.batch_size:
            order = torch.randperm(len(texts), generator=generator).tolist()
            sequences = packed_rows(row_lengths, order, settings.max_length)
            for number in torch.randperm(len(sequences), generator=generator).tolist():
                queue.append(sequences[number])
        yield [pack([texts[row] for row in rows]) for rows in queue[: settings.batch_size]]
        del queue[: settings.batch_size]
