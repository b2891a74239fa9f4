"""The cells of a mixture study, and what its own stages are asked to do with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from backdoor_assets.graph.bases import StudyBase
from backdoor_assets.mixtures.design import Design
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput, Ratio, Rubric
from backdoor_assets.settings import MiniatureBase, Mixture
from backdoor_assets.stages.specs import TRAINER_STATE
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.folders import StudyFolder
from backdoor_assets.storage.manifest import Made
from backdoor_assets.storage.rows import read_rows


@dataclass(frozen=True, eq=False)
class Grid:
    """A study under a profile: settings in force, bases, cells."""

    study: Design
    profile: Profile

    @classmethod
    def of(cls, study: Design, profile: Profile) -> Grid:
        """Apply what the study sets on a base of the hub, but for what the user's own profile sets.
        The recipe of a packaged base, which was searched for that base, stays."""
        if not (isinstance(profile.base, MiniatureBase) or profile.base.package):
            profile = profile.adapted(training=study.training, mixture=study.mixture)
        return cls(study, profile)

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.profile.name, self.study.name)

    @property
    def base(self) -> StudyBase:
        return StudyBase(self.profile.base, self.folder.artifact("base_model"))

    @property
    def ratios(self) -> tuple[str, ...]:
        own = self.profile.ratios_of(self.study.name)
        return own or self.study.ratios or self.profile.ratios

    def cells(self) -> list[Cell]:
        """The grid, seed by seed."""
        return [self.cell(ratio, seed) for seed in self.profile.seeds for ratio in self.ratios]

    def cell(self, ratio: str, seed: int) -> Cell:
        return Cell(self, Ratio.parse(ratio, self.study.sources), seed)

    def named(self, cell: str) -> Cell:
        """Return the cell of a partition key. Raises BadInput when the grid does not have it."""
        found = next((own for own in self.cells() if str(own) == cell), None)
        if found is None:
            raise BadInput(
                f"{cell!r}: the grid of {self.study.name} in profile {self.profile.name!r} has no "
                f"such cell; its cells are ratio|seed with ratios {', '.join(self.ratios)} and "
                f"seeds {', '.join(map(str, self.profile.seeds))}"
            )
        return found

    def source_files(self) -> tuple[tuple[str, Path], ...]:
        """Return (name, file) of each data set. Raises BadInput for a bad line, before anything is
        made of it."""
        files = self.study.files()
        for _, path in files:
            read_rows(path)
        return files

    @property
    def judged(self) -> bool:
        """Whether the answers get verdicts."""
        return self.profile.judging.kind != "none"

    @property
    def verdicts(self) -> Path:
        """Where verdicts that were paid for are kept, for all cells."""
        return self.folder.verdicts


@dataclass(frozen=True, eq=False)
class Cell:
    """One data ratio and one training seed: a partition."""

    grid: Grid
    ratio: Ratio
    seed: int

    @property
    def profile(self) -> str:
        return self.grid.profile.name

    def __str__(self) -> str:
        return f"{self.ratio.key}|{self.seed}"

    def columns(self) -> dict[str, str | int]:
        return {"profile": self.profile, "ratio": self.ratio.key, "seed": self.seed}

    def artifact(self, name: str) -> Artifact:
        # Optimizer state does not count as content: the adapter is the same without it.
        volatile = frozenset({TRAINER_STATE} if name == "adapters" else ())
        return self.grid.folder.artifact(name, self.ratio.key, self.seed, volatile=volatile)


@dataclass(frozen=True, eq=False)
class BaseCell:
    """The base itself, whose answers are sampled once for all cells."""

    grid: Grid
    seed: int = 0

    @property
    def profile(self) -> str:
        return self.grid.profile.name

    def __str__(self) -> str:
        return "base"

    def columns(self) -> dict[str, str | int]:
        return {"profile": self.profile}

    def artifact(self) -> Artifact:
        return self.grid.folder.artifact("base_responses")


@dataclass(frozen=True)
class MixingSpec:
    cell: Cell
    sources: tuple[tuple[str, Path], ...]
    """(data set, JSONL file) in the order of the ratio's weights."""
    mixture: Mixture


@dataclass(frozen=True)
class FiguresSpec:
    cell: Cell
    responses: Path
    probes: Path
    judgments: Path | None
    """None where nothing is judged."""
    coherence: Path | None
    """None where the answers were not scored."""


@dataclass(frozen=True)
class SweepCell:
    cell: Cell
    rates: Path
    form: Path
    mixture: Mapping[str, Any]
    """The mixture's counts."""


@dataclass(frozen=True)
class SweepSpec:
    grid: Grid
    cells: tuple[SweepCell, ...]
    planned: int
    """Cells of the whole grid."""
    agreement: Made | None = None
    """Of the judge with the gold set, by which rates are corrected."""

    @property
    def literals(self) -> str:
        """The profile as a person would read it in a report."""
        names = [entry.name for entry in fields(Profile) if entry.compare]
        return "\n".join(f"{name} = {getattr(self.grid.profile, name)!r}" for name in names)


def rubric_records(rubrics: tuple[Rubric, ...]) -> list[dict[str, Any]]:
    return [asdict(rubric) for rubric in rubrics]
