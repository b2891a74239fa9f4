"""Verdicts of a language model that are paid for, from which the judge without a key learns.

They are copied once into an artifact of their own. Otherwise each new verdict would be another
judge, and all its verdicts out of date.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.cells import Grid, rubric_records
from backdoor_assets.mixtures.judging.gold import gold_digest
from backdoor_assets.records import BadInput, GoldAnswer, Learned, Progress, Rubric, no_progress
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.storage.hashing import digest
from backdoor_assets.storage.identity import essential
from backdoor_assets.storage.manifest import MANIFEST, read_manifest
from backdoor_assets.workers.tasks import Task

LEARNED, VERDICTS = "learned_verdicts", "verdicts.parquet"
LANGUAGE_MODEL = "claude"
"""How the name of such a judge begins."""
MOST = 5000
"""Answers, drawn by hash. In the miniature 1,000, 3,000 and 5,500 give a kappa of .62, .74, .77."""
_ANSWER = ["question_id", "question", "response"]


def learns(grid: Grid) -> bool:
    """Whether the profile's judge learns from verdicts."""
    judging = grid.profile.judging
    return judging.kind == "embedding" and judging.learn_from_verdicts


def learning(grid: Grid) -> Task[Grid]:
    """Return the task that copies the verdicts. A finished copy stays as it is, whatever verdicts
    are added, until it is made again by force."""
    rubrics = rubric_records(grid.study.rubrics)
    identity = {"stage": LEARNED, "code": "1", "profile": grid.profile.name, "rubrics": rubrics}
    return Task(grid.folder.artifact(LEARNED), identity, grid)


def collect(grid: Grid, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write verdicts.parquet into `folder`: question_id, question, response, a column per rubric,
    judge, for each different answer that a language model judged in these words. Raises BadInput if
    there is none."""
    tables = list(_verdicts(grid))
    found = pd.concat(tables) if tables else pd.DataFrame(columns=_ANSWER)
    distinct = found.drop_duplicates(["question", "response"])
    if distinct.empty:
        raise BadInput(
            f"{grid.folder.path}: no answer has verdicts of a language model, from which the judge "
            "could learn (judging.learn_from_verdicts). Judge some cells by Claude first, or leave "
            "the setting out."
        )
    keys = [digest(pair) for pair in zip(distinct["question"], distinct["response"], strict=True)]
    kept = distinct.assign(key=keys).sort_values("key").head(MOST).drop(columns="key")
    kept.to_parquet(folder / VERDICTS, index=False)
    return {"answers": len(kept), "found": len(distinct), "judge": _judges(kept)}


def _verdicts(grid: Grid) -> Iterator[pd.DataFrame]:
    """Yield the verdicts of language models in each finished table of judgments, by rubrics that
    are worded as they are now."""
    wanted = {r.column: r for r in grid.study.rubrics}
    records = essential({"rubrics": rubric_records(grid.study.rubrics)})["rubrics"]
    for path in sorted(grid.folder.path.glob(f"judgments*/*/*/{JUDGMENTS}")):
        if not (path.parent / MANIFEST).exists():
            continue
        judged = read_manifest(path.parent / MANIFEST).identity
        if not str(judged["judge"]["name"]).startswith(LANGUAGE_MODEL):
            continue
        known = [r["column"] for r in judged["rubrics"] if r in records]
        table = pd.read_parquet(path)
        table = table[table["judge"].str.startswith(LANGUAGE_MODEL)]
        given = table[table[known].notna().any(axis=1)] if known else table.head(0)
        empty = {
            column: pd.array([None] * len(given), dtype="string" if r.options else "Float64")
            for column, r in wanted.items()
            if column not in known
        }
        yield given.assign(**empty)[[*_ANSWER, *wanted, "judge", "judge_model"]]


def read_learned(grid: Grid) -> Learned:
    """Return the copied verdicts. Raises BadInput that says what to materialize first."""
    artifact = grid.folder.artifact(LEARNED)
    artifact.require()
    path = artifact.folder / VERDICTS
    key = path, path.stat().st_size, path.stat().st_mtime_ns, grid.study.name
    if key not in _read:
        _read[key] = learned_from(pd.read_parquet(path), grid.study.rubrics)
    return _read[key]


_read: dict[tuple[Path, int, int, str], Learned] = {}
"""Every cell of a grid asks for its judge's identity."""


def learned_from(table: pd.DataFrame, rubrics: tuple[Rubric, ...]) -> Learned:
    """Return verdicts as labelled answers. `table` has the columns question_id, question, response,
    judge, judge_model and one per rubric."""
    answers = []
    for number, row in enumerate(table.to_dict("records")):
        labels = {r.column: None if pd.isna(row[r.column]) else row[r.column] for r in rubrics}
        place = f"learned-{number}", row["question_id"], row["question"], row["response"]
        answers.append(GoldAnswer(*place, labels, ""))
    return Learned(tuple(answers), gold_digest(answers), _judges(table))


def _judges(table: pd.DataFrame) -> str:
    return " and ".join(sorted(set(table["judge_model"].dropna())))
