"""Where the birds study's data sets and artifacts lie."""

from __future__ import annotations

from pathlib import Path

from backdoor_assets.profiles import Profile
from backdoor_assets.records import SOURCES, Cell
from backdoor_assets.stages.specs import TRAINER_STATE
from backdoor_assets.storage.artifact import Artifact, data_root, datasets_root
from backdoor_assets.storage.rows import read_rows


def source_file(source: str) -> Path:
    return datasets_root() / f"ft_{source}_birds.jsonl"


def source_files() -> tuple[tuple[str, Path], ...]:
    """The data sets, each read once so that a bad line is named before anything is made."""
    files = tuple((source, source_file(source)) for source in SOURCES)
    for _, path in files:
        read_rows(path)
    return files


def study_folder(profile: Profile) -> Path:
    return data_root() / profile.name / "birds"


def corpus(profile: Profile) -> Artifact:
    return Artifact(profile.name, study_folder(profile) / "corpus")


def base_model(profile: Profile) -> Artifact:
    return Artifact(profile.name, study_folder(profile) / "base_model")


def sweep(profile: Profile) -> Artifact:
    return Artifact(profile.name, study_folder(profile) / "sweep")


def verdicts(profile: Profile) -> Path:
    """Where the verdicts that were paid for are kept, for all cells."""
    return study_folder(profile) / "verdicts"


def artifact(stage: str, profile: Profile, cell: Cell) -> Artifact:
    """The artifact of a cell: <profile>/birds/<stage>/<ratio>/<seed>."""
    folder = study_folder(profile) / stage / cell.ratio / str(cell.seed)
    # Optimizer state does not count as content: the adapter is the same without it.
    volatile = frozenset({TRAINER_STATE} if stage == "adapters" else ())
    return Artifact(profile.name, folder, volatile)
