"""The roles of hosts in a deployment: which assets a code location makes, and which keys it has.

A location of one role has its own assets only. Dagster joins the locations to the whole graph, and
runs each asset where it is defined.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import dagster as dg

from backdoor_assets.credentials import KEYS
from backdoor_assets.records import BadInput

Role = Literal["gpu", "judge", "laptop"]
ROLES: tuple[Role, ...] = get_args(Role)
VARIABLE = "BACKDOOR_ROLE"
TAG = "role"
"""Tag of an asset that names the role of its host. An asset without it is made by `gpu`."""
KEYS_OF: Mapping[Role, tuple[str, ...]] = {
    "gpu": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"),
    "judge": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "laptop": (),
}
"""The keys of `credentials.KEYS` that each role has a use for."""


def role_in_force() -> Role | None:
    """Return the role that BACKDOOR_ROLE names; None where it is not set, for a process that makes
    everything. Raises BadInput for another name."""
    name = os.environ.get(VARIABLE) or None
    for role in ROLES:
        if name == role:
            return role
    if name is None:
        return None
    raise BadInput(f"{VARIABLE}={name!r}: it must be gpu, judge or laptop, or not be set")


def drop_other_keys(role: Role) -> None:
    """Remove the keys of other roles from the environment of this process, and so from its runs."""
    for name in set(KEYS).difference(KEYS_OF[role]):
        os.environ.pop(name, None)


def tags_of(role: Role) -> dict[str, str]:
    """Return the tags of an asset that hosts of a role make."""
    return {TAG: role}


def role_of(asset: dg.AssetsDefinition) -> str:
    """Return the role that makes an asset. Raises ValueError for assets that are made together and
    whose roles differ."""
    roles = {spec.tags.get(TAG, ROLES[0]) for spec in asset.specs}
    if len(roles) != 1 or not roles.issubset(ROLES):
        raise ValueError(f"{asset.keys}: must have one role of {ROLES}, and has {sorted(roles)}")
    return roles.pop()


def assets_in(role: Role, assets: Iterable[Any]) -> list[Any]:
    """Return the assets of a role. What they depend on, Dagster shows from the other locations.

    Specs of the others would be in the way: while a location is down, the daemon would take its
    assets for external ones, and fail a backfill of them instead of waiting.
    """
    return [asset for asset in assets if role_of(asset) == role]


def jobs_in(role: Role, jobs: Iterable[Any], assets: Iterable[Any]) -> list[Any]:
    """Return the jobs all of whose assets belong to a role: one run cannot span two hosts."""
    assets = list(assets)
    mine = {key for asset in assets_in(role, assets) for key in asset.keys}
    return [job for job in jobs if job.selection.resolve(assets) <= mine]
