"""Draw a mixture of the data sets at a ratio: the fine-tuning rows of a cell."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from backdoor_assets.profiles import Mixture
from backdoor_assets.records import SOURCES, BadInput, Cell, Message, Ratio
from backdoor_assets.stages.specs import TRAIN, MixingSpec
from backdoor_assets.storage.rows import letters, names, read_rows


def counts_by_source(ratio: Ratio, mixture: Mixture) -> dict[str, int]:
    """Rows of each data set: largest remainders, so that they sum to the total exactly."""
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
    return dict(zip(SOURCES, counts, strict=True))


def mix(spec: MixingSpec, folder: Path) -> dict[str, Any]:
    """Write train.jsonl into `folder`: rows drawn by the cell's seed, without replacement until a
    data set is used up, then from the start again; in random order.

    Raises BadInput when a row holds a text of the evaluation.
    """
    ratio = Ratio.parse(spec.cell.ratio)
    wanted = counts_by_source(ratio, spec.mixture)
    rng = random.Random(f"mixture-{spec.cell.ratio}-{spec.cell.seed}")
    mixed: list[tuple[str, list[Message]]] = []
    for source, path in spec.sources:
        rows = read_rows(path)
        _check_no_evaluation_text(rows, spec.forbidden, path)
        mixed += [(source, row) for row in _draw(rows, wanted[source], rng)]
    rng.shuffle(mixed)
    drawn = {source: [row for own, row in mixed if own == source] for source in SOURCES}
    _check_counts(spec.cell, ratio, {source: len(rows) for source, rows in drawn.items()}, wanted)
    with (folder / TRAIN).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for _, row in mixed)
    suspect = SOURCES[0]
    return {
        "mode": spec.mixture.mode,
        "rows": len(mixed),
        **{f"rows_{source}": len(rows) for source, rows in drawn.items()},
        "suspect_rows": len(drawn[suspect]),
        "distinct_suspect_rows": len(set(names(drawn[suspect]))),
    }


def _draw(rows: list[list[Message]], count: int, rng: random.Random) -> list[list[Message]]:
    drawn: list[list[Message]] = []
    while len(drawn) < count:
        drawn += rng.sample(rows, min(len(rows), count - len(drawn)))
    return drawn


def _check_counts(
    cell: Cell, ratio: Ratio, found: Mapping[str, int], wanted: Mapping[str, int]
) -> None:
    """Gate: row counts and ratio as asked."""
    total = sum(found.values())
    off = max(abs(found[s] / total - w) for s, w in zip(SOURCES, ratio.weights, strict=True))
    if dict(found) != dict(wanted) or off > 1 / total:
        raise RuntimeError(f"{cell}: the mixture has {dict(found)} rows, asked were {dict(wanted)}")


def _check_no_evaluation_text(
    rows: Sequence[Sequence[Message]], forbidden: Collection[str], path: Path
) -> None:
    """Gate: what is measured must not stand in the fine-tuning data."""
    for number, row in enumerate(rows, 1):
        text = f" {letters(' '.join(message['content'] for message in row))} "
        for phrase in forbidden:
            if f" {letters(phrase)} " in text:
                raise BadInput(
                    f"{path} row {number}: it holds {phrase!r}, a text of the evaluation; the "
                    "study measures what spreads to questions that the training data never touch"
                )
