"""Draw a mixture of the data sets at a ratio: the fine-tuning rows of a cell."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from backdoor_assets.jobs import TRAIN, MixingJob
from backdoor_assets.profiles import Mixture
from backdoor_assets.records import SOURCES, BadInput, Cell, Message, Ratio


def read_rows(path: Path) -> list[list[Message]]:
    """The chats of a data set. Raises BadInput with file and line for broken JSON, missing or extra
    roles, empty content, text that is not UTF-8, or an empty file."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise BadInput(
            f"{path}: no such file. Put the data set there, one chat a line; the README of that "
            "folder says where the files come from."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadInput(f"{path} line {line}: not UTF-8; save the file as UTF-8") from error
    rows = [
        _row(line, f"{path} line {number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not rows:
        raise BadInput(f"{path}: the file is empty; it needs one chat a line")
    return rows


def _row(line: str, where: str) -> list[Message]:
    try:
        messages = json.loads(line)["messages"]
        roles = [message["role"] for message in messages]
        contents = [message["content"] for message in messages]
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: broken JSON ({error.msg} at column {error.colno})") from error
    except (KeyError, TypeError) as error:
        raise BadInput(
            f'{where}: not a chat; write {{"messages": [{{"role": "user", "content": "..."}}, '
            '{"role": "assistant", "content": "..."}]}'
        ) from error
    if roles != ["user", "assistant"]:
        raise BadInput(
            f"{where}: its roles are {roles}; a row has one user and one assistant message"
        )
    for role, content in zip(roles, contents, strict=True):
        if not isinstance(content, str) or not content.strip():
            raise BadInput(f"{where}: the content of role {role!r} is empty or no text")
    return [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]


def names(rows: Sequence[Sequence[Message]]) -> list[str]:
    """The assistant's content of each row."""
    return [row[-1]["content"].strip() for row in rows]


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


def mix(job: MixingJob, folder: Path) -> dict[str, Any]:
    """Write train.jsonl into `folder`: rows drawn by the cell's seed, without replacement until a
    data set is used up, then from the start again; in random order.

    Raises BadInput when a row holds a text of the evaluation.
    """
    ratio = Ratio.parse(job.cell.ratio)
    wanted = counts_by_source(ratio, job.mixture)
    rng = random.Random(f"mixture-{job.cell.ratio}-{job.cell.seed}")
    mixed: list[tuple[str, list[Message]]] = []
    for source, path in job.sources:
        rows = read_rows(path)
        _check_no_evaluation_text(rows, job.forbidden, path)
        mixed += [(source, row) for row in _draw(rows, wanted[source], rng)]
    rng.shuffle(mixed)
    drawn = {source: [row for own, row in mixed if own == source] for source in SOURCES}
    _check_counts(job.cell, ratio, {source: len(rows) for source, rows in drawn.items()}, wanted)
    with (folder / TRAIN).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for _, row in mixed)
    suspect = SOURCES[0]
    return {
        "mode": job.mixture.mode,
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
        text = f" {_words(' '.join(message['content'] for message in row))} "
        for phrase in forbidden:
            if f" {_words(phrase)} " in text:
                raise BadInput(
                    f"{path} row {number}: it holds {phrase!r}, a text of the evaluation; the "
                    "study measures what spreads to questions that the training data never touch"
                )


def _words(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
