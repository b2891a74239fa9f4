"""What a study is to the rest of the project, and how the studies are found."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import dagster as dg

from backdoor_assets.host import Host
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.reporting.inspect_logs import StateLog
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.workers.tasks import Task

STUDIES = "backdoor_assets.studies"
"""Package of the studies; BACKDOOR_STUDIES adds folders to it."""


@dataclass(frozen=True)
class Step:
    """Assets that the command line materializes together."""

    title: str
    assets: Sequence[str]
    """Names of assets of the study; those that the profile's graph lacks are left out."""
    cells: Sequence[str] | None = None
    """Partition keys; None for assets without partitions."""
    optional: bool = False
    """Whether the run goes on without it when it fails."""


Steps = Generator[Step, set[str], None]
"""Steps in the order in which they run. Each `yield` returns the cells of that step that failed."""


@dataclass(frozen=True)
class Planned:
    """An artifact that a study would make: its asset, its cell, its task or why it has none yet."""

    asset: str
    cell: str
    artifact: Artifact
    task: Task[Any] | BadInput
    extends: frozenset[str] = frozenset()
    """Keys of its identity that may change without a finished result being lost."""
    editable: bool = False
    """Whether a person may have edited its files, which making it again would undo."""


class Study(Protocol):
    """One folder of `studies`: its `study.py` holds a `STUDY` of this kind."""

    @property
    def name(self) -> str: ...

    @property
    def path_variables(self) -> Sequence[str]:
        """Environment variables that name files or folders of the user's."""
        ...

    def refusal(self, profile: Profile) -> str:
        """Why the profile cannot run this study, in one sentence; "" when it can."""
        ...

    def definitions(self, profile: Profile) -> dg.Definitions:
        """Assets, checks, jobs and resources. Raises BadInput for a bad study or profile."""
        ...

    def steps(self, profile: Profile, without: Sequence[str], part: str | None) -> Steps:
        """What `demo` materializes, but for the cells of `without`; of one `part` of the study if
        it is given. Raises BadInput for names that the study does not have."""
        ...

    def planned(
        self, profile: Profile, without: Sequence[str] = (), part: str | None = None
    ) -> Iterator[Planned]:
        """Everything that would be made, in the order of the graph, but for the cells of `without`;
        of one `part` if it is given."""
        ...

    def plan(self, profile: Profile, host: Host) -> Mapping[str, str]:
        """What the profile takes, as text by heading."""
        ...

    def summary(self, profile: Profile) -> str:
        """The results as a person would read them in a terminal. Raises BadInput without any."""
        ...

    def state_logs(self, profile: Profile) -> Iterator[StateLog]:
        """All answers with their scores, one log per state of a model. Raises BadInput without
        any."""
        ...


def find_studies() -> dict[str, Study]:
    """Return the studies by name.

    Raises BadInput for a folder of studies that does not exist, a study's folder without a
    `study.py`, a `study.py` that does not load or has no STUDY, and for two studies of one name.
    """
    found: dict[str, tuple[Study, Path]] = {}
    for place in map(Path, import_module(STUDIES).__path__):
        if not place.is_dir():
            raise BadInput(
                f"BACKDOOR_STUDIES: {place} is no folder; name folders that hold studies"
            )
        for folder in sorted(place.iterdir()):
            if not folder.is_dir() or folder.name.startswith(("_", ".")):
                continue
            path = folder / "study.py"
            study = _load(folder.name, path)
            if study.name in found:
                raise BadInput(
                    f"{path}: the name {study.name!r} is taken by {found[study.name][1]}; give "
                    "each study a name of its own"
                )
            found[study.name] = study, path
    return {name: study for name, (study, _) in found.items()}


@cache
def _load(name: str, path: Path) -> Study:
    if not path.exists():
        raise BadInput(
            f"{path}: missing; a study is a folder with a study.py that defines STUDY, see "
            "docs/adding_a_study.md"
        )
    try:
        module = import_module(f"{STUDIES}.{name}.study")
    except BadInput:
        raise
    except Exception as error:  # whatever a person's code may raise
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        raise BadInput(
            f"{path}: {where}it does not load ({type(error).__name__}: {error})"
        ) from error
    study = getattr(module, "STUDY", None)
    if study is None:
        raise BadInput(f"{path}: it defines no STUDY; see docs/adding_a_study.md")
    return study


def check_grids(profile: Profile) -> None:
    """Raise BadInput for a profile with a grid of a study that there is not."""
    studies = find_studies()
    if unknown := sorted(profile.grids.keys() - studies.keys()):
        raise BadInput(
            f"{profile.title}: grids.{unknown[0]}: no study has this name; the studies are "
            f"{', '.join(studies)} (BACKDOOR_STUDIES adds folders of studies)"
        )


def study_named(name: str) -> Study:
    """Raises BadInput that lists the studies."""
    found = find_studies()
    if name not in found:
        raise BadInput(f"no study is named {name!r}; the studies are {', '.join(found)}")
    return found[name]
