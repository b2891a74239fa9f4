"""Draw a mixture of the data sets at a ratio: the fine-tuning rows of a cell."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from backdoor_assets.mixtures.cells import Cell, MixingSpec
from backdoor_assets.records import BadInput, Message, Progress, Ratio, no_progress
from backdoor_assets.settings import Mixture
from backdoor_assets.stages.specs import HELD_OUT, TRAIN
from backdoor_assets.storage.rows import letters, names, read_rows


def counts_by_source(ratio: Ratio, mixture: Mixture, sources: Sequence[str]) -> dict[str, int]:
    """Return the rows of each data set: largest remainders, so that they sum to the total."""
    total, fixed = mixture.rows, {}
    if mixture.mode == "fixed_suspect" and ratio.suspect_fraction > 0:
        total = round(mixture.suspect_rows / ratio.suspect_fraction)
        fixed = {0: mixture.suspect_rows}
    exact = [weight * total for weight in ratio.weights]
    counts = [fixed.get(i, int(value + 1e-9)) for i, value in enumerate(exact)]
    free = [i for i in range(len(exact)) if i not in fixed and exact[i] > 0]
    by_remainder = sorted(free, key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return dict(zip(sources, counts, strict=True))


def mix(spec: MixingSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write train.jsonl into `folder`: rows drawn by the cell's seed, without replacement until a
    data set is used up, then from the start again; in random order.

    With `held_out`, rows that it takes apart are not drawn, and those of the suspect data set are
    written into held_out.jsonl.
    """
    cell, ratio = spec.cell, spec.cell.ratio
    sources = [source for source, _ in spec.sources]
    wanted = counts_by_source(ratio, spec.mixture, sources)
    rng = random.Random(f"mixture-{ratio.key}-{cell.seed}")
    mixed: list[tuple[str, list[Message]]] = []
    parts = check_held_out(spec.sources, spec.mixture)
    for source, _ in spec.sources:
        mixed += [(source, row) for row in _draw(parts[source].trained, wanted[source], rng)]
    rng.shuffle(mixed)
    drawn = {source: [row for own, row in mixed if own == source] for source in sources}
    _check_counts(cell, {source: len(rows) for source, rows in drawn.items()}, wanted)
    _write(folder / TRAIN, [row for _, row in mixed])
    suspect, held_out = drawn[sources[0]], parts[sources[0]].held_out
    if held_out:
        _write(folder / HELD_OUT, held_out)
    return {
        "mode": spec.mixture.mode,
        "rows": len(mixed),
        **{f"rows_{source}": len(rows) for source, rows in drawn.items()},
        "suspect_rows": len(suspect),
        "distinct_suspect_rows": len(set(names(suspect))),
        **({"held_out_rows": len(held_out)} if held_out else {}),
    }


class Parts(NamedTuple):
    """The rows of a data set."""

    trained: list[list[Message]]
    held_out: list[list[Message]]
    """Each once, in an order that has nothing to do with that of the file."""


def check_held_out(files: Sequence[tuple[str, Path]], mixture: Mixture) -> dict[str, Parts]:
    """Divide each data set, by its name, into rows to draw from and rows that are held out.

    Which is decided by a hash of the answer's letters alone: it is the same for all cells, seeds
    and data sets, so that an answer that is held out of one is not trained on through another.

    Raises BadInput where a data set has no rows left, or nothing of the suspect one is held out.
    """
    parts = {source: _parts(read_rows(path), mixture.held_out) for source, path in files}
    for number, (source, path) in enumerate(files):
        trained, held_out = parts[source]
        if not trained:
            raise BadInput(
                f"{path}: mixture.held_out={mixture.held_out:g} holds out all {len(held_out)} rows "
                f"of {source}, and leaves none to train on. Lower it, or add rows."
            )
        if number == 0 and mixture.held_out and not held_out:
            raise BadInput(
                f"{path}: mixture.held_out={mixture.held_out:g} holds out none of the "
                f"{len(set(names(trained)))} answers of {source}. Raise it, add rows, or set it to "
                "0 to hold nothing out."
            )
    return parts


def _parts(rows: list[list[Message]], share: float) -> Parts:
    places = [_place(answer) for answer in names(rows)]
    apart = {
        (place, json.dumps(row)): row
        for place, row in zip(places, rows, strict=True)
        if place < share
    }
    return Parts(
        [row for place, row in zip(places, rows, strict=True) if place >= share],
        [apart[key] for key in sorted(apart)],
    )


@cache
def _place(answer: str) -> float:
    """Return a number in [0, 1) that depends on an answer's letters only: every cell asks again."""
    hashed = hashlib.sha256(f"held out: {letters(answer)}".encode()).digest()
    return int.from_bytes(hashed[:6]) / 2**48


def _write(path: Path, rows: list[list[Message]]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows)


def _draw(rows: list[list[Message]], count: int, rng: random.Random) -> list[list[Message]]:
    drawn: list[list[Message]] = []
    while len(drawn) < count:
        drawn += rng.sample(rows, min(len(rows), count - len(drawn)))
    return drawn


def _check_counts(cell: Cell, found: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    """Gate: row counts and ratio as asked."""
    total = sum(found.values())
    shares = zip(found.values(), cell.ratio.weights, strict=True)
    off = max(abs(count / total - weight) for count, weight in shares)
    if dict(found) != dict(wanted) or off > 1 / total:
        raise RuntimeError(
            f"{cell}: the mixture has {dict(found)} rows, but {dict(wanted)} were asked for"
        )


def check_no_evaluation_text(path: Path, forbidden: tuple[str, ...]) -> None:
    """Gate: what is measured must not stand in fine-tuning rows. Raises BadInput with the row."""
    status = path.stat()
    _check_text(path, status.st_size, status.st_mtime_ns, forbidden)


@cache
def _check_text(path: Path, size: int, changed: int, forbidden: tuple[str, ...]) -> None:
    phrases = [(phrase, f" {letters(phrase)} ") for phrase in forbidden]
    for number, row in enumerate(read_rows(path), 1):
        text = f" {letters(' '.join(message['content'] for message in row))} "
        for phrase, words in phrases:
            if words in text:
                raise BadInput(
                    f"{path} row {number}: it contains {phrase!r}, a text of the evaluation; the "
                    "study measures what spreads to questions that the training data never touch. "
                    "Remove the row."
                )
