"""The sweep's order: which cells are in it, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable

from backdoor_assets.graph.resources import Task
from backdoor_assets.mixtures import tasks as orders
from backdoor_assets.mixtures.places import artifact, study_folder, sweep
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput, Cell
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.specs import RATES, JudgingSpec, SweepCell, SweepSpec
from backdoor_assets.storage.hashing import digest
from backdoor_assets.studies.birds import study as design

_IDENTITIES = {
    "mixed_dataset": orders.mixing_identity,
    "adapters": orders.training_identity,
    "responses": orders.sampling_identity,
}
_MAY_STAY = "adapters"
"""What may be on no cell of the machine that draws the sweep: it is large, and nothing reads it
there. Where there are some, a cell without one is not whole."""


def is_current(
    profile: Profile, cell: Cell, judge: Callable[[Profile, Cell, bool], Task[JudgingSpec]]
) -> bool:
    """Whether a cell is whole, from its mixture to its figures, and as the profile now asks."""
    try:
        for stage, identity in _IDENTITIES.items():
            manifest = artifact(stage, profile, cell).manifest()
            if stage == _MAY_STAY and not (study_folder(profile) / stage).exists():
                continue
            if manifest is None or manifest.fingerprint != digest(
                identity(profile, cell, manifest.identity)
            ):
                return False
        for order in (judge, orders.figures):
            wanted = order(profile, cell, False)
            manifest = wanted.artifact.manifest()
            if manifest is None or manifest.fingerprint != digest(wanted.identity):
                return False
    except BadInput:
        return False
    return True


def sweeping(
    profile: Profile,
    judge: Callable[[Profile, Cell, bool], Task[JudgingSpec]],
    force: bool,
) -> tuple[Task[SweepSpec], list[Cell]]:
    """The sweep's order over the cells that are current, and the cells that are missing.

    Raises BadInput when there is none.
    """
    planned = design.cells(profile)
    there, made_from, mixtures = [], {}, []
    for cell in planned:
        if not is_current(profile, cell, judge):
            continue
        drawn = artifact("figures", profile, cell)
        there.append(cell)
        made_from[str(cell)] = drawn.require().reference()
        mixed = artifact("mixed_dataset", profile, cell).require(edited=True)
        mixtures.append((drawn.folder / RATES, mixed.summary))
    missing = [cell for cell in planned if cell not in there]
    if not there:
        raise BadInput(
            f"profile {profile.name!r}: no cell of the grid has its figures yet; materialize some "
            "cells of birds/figures first"
        )
    identity = {
        "stage": "sweep",
        "code": [CODE_VERSIONS["statistics"], CODE_VERSIONS["figures"], CODE_VERSIONS["report"]],
        "profile": profile.name,
        "cells": made_from,
        "planned": [str(cell) for cell in planned],
    }
    spec = SweepSpec(
        profile.name,
        tuple(
            SweepCell(c, rates, mixed) for c, (rates, mixed) in zip(there, mixtures, strict=True)
        ),
        len(planned),
        profile_literals(profile),
    )
    return Task(sweep(profile), identity, spec, force), missing


def profile_literals(profile: Profile) -> str:
    """The profile as a person would read it in a report."""
    return "\n".join(f"{name} = {value!r}" for name, value in vars(profile).items())
