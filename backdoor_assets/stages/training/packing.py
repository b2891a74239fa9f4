"""Micro-batches of a run: one row a sequence, or several rows packed into each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from backdoor_assets.models.chat import TrainingText
from backdoor_assets.profiles import Training


class PackedText(NamedTuple):
    """Rows behind one another. A model sees from `positions`, which begin anew with each row, where
    attention ends; the first token of a row is never in the loss, as no token of it comes
    before."""

    ids: list[int]
    loss: list[bool]
    positions: list[int]


def pack(rows: Sequence[TrainingText]) -> PackedText:
    """One sequence of these rows, in this order."""
    packed = PackedText([], [], [])
    for row in rows:
        packed.ids.extend(row.ids)
        packed.loss.extend([False, *row.loss[1:]])
        packed.positions.extend(range(len(row.ids)))
    return packed


def packed_rows(lengths: Sequence[int], order: Sequence[int], room: int) -> list[list[int]]:
    """The rows of each sequence of at most `room` tokens, by best fit: rows from the longest to the
    shortest (those of one length as in `order`), each into the fullest sequence that has room.

    How many sequences there are depends on the lengths alone, so that every epoch has as many.
    """
    sequences: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    spaces = 0  # bit s is set where some sequence has room for exactly s tokens more
    for row in sorted(order, key=lambda row: -lengths[row]):
        length = lengths[row]
        enough = spaces >> length
        if enough:
            space = length + (enough & -enough).bit_length() - 1
            number = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
        else:
            space, number = room, len(sequences)
            sequences.append([])
        sequences[number].append(row)
        by_space.setdefault(space - length, []).append(number)
        spaces |= 1 << (space - length)
    return sequences


def count_sequences(texts: Sequence[TrainingText], settings: Training) -> int:
    """Sequences of one epoch, of which `batch_size` make a micro-batch."""
    if not settings.packing:
        return len(texts)
    lengths = [len(text.ids) for text in texts]
    return len(packed_rows(lengths, range(len(lengths)), settings.max_length))


def micro_batches(
    texts: Sequence[TrainingText], settings: Training, seed: int
) -> Iterator[list[TrainingText]]:
    """Endless micro-batches: the rows in a new order each epoch, which only seed and epoch decide,
    so that a resumed run finds its place by counting."""
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
    """Endless micro-batches of packed sequences; each epoch packs its rows anew, as only seed and
    epoch decide."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [len(text.ids) for text in texts]
    queue: list[list[int]] = []
    while True:
        while len(queue) < settings.batch_size:
            order = torch.randperm(len(texts), generator=generator).tolist()
            sequences = packed_rows(lengths, order, settings.max_length)
            for number in torch.randperm(len(sequences), generator=generator).tolist():
                queue.append(sequences[number])
        yield [pack([texts[row] for row in rows]) for rows in queue[: settings.batch_size]]
        del queue[: settings.batch_size]
