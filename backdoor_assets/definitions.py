"""What Dagster loads: all studies that are found, under the profile in force."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import Any

import dagster as dg

from backdoor_assets.credentials import check_keys
from backdoor_assets.environment import load_dotenv
from backdoor_assets.graph.instance import progress_logger
from backdoor_assets.graph.roles import (
    Role,
    assets_in,
    drop_other_keys,
    jobs_in,
    role_in_force,
)
from backdoor_assets.graph.study import Study, check_grids, find_studies
from backdoor_assets.mixtures.judging.judges import check_judge
from backdoor_assets.profiles import Profile, active_profile
from backdoor_assets.storage.provenance import REPOSITORY

# Backfill policies and pools are marked beta; the pinned version is the one that was tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_definitions(
    profile: Profile, studies: Iterable[Study] | None = None, role: Role | None = None
) -> dg.Definitions:
    """Return the graph of a profile, with all studies that can run under it, or what a host of one
    role makes of it. Raises BadInput for a bad study or profile."""
    check_grids(profile)
    chosen = find_studies().values() if studies is None else studies
    parts = [study.definitions(profile) for study in chosen if not study.refusal(profile)]
    resources = {name: value for part in parts for name, value in (part.resources or {}).items()}
    assets = [asset for part in parts for asset in part.assets or ()]
    jobs = [job for part in parts for job in part.jobs or ()]
    if role is not None:
        jobs, assets = jobs_in(role, jobs, assets), assets_in(role, assets)
    return dg.Definitions(
        assets=[asset if _is_linked(asset) else _linked(asset) for asset in assets],
        jobs=jobs,
        resources=resources,
        # Heavy work has processes of its own, so that steps need none.
        executor=dg.in_process_executor,
        loggers={"console": dg.colored_console_logger, "progress": progress_logger},
    )


def _is_linked(asset: Any) -> bool:
    """Whether an asset names its source already: the function that says what its stage does."""
    return any("dagster/code_references" in spec.metadata for spec in asset.specs)


def _linked(asset: Any) -> Any:
    [linked] = dg.with_source_code_references([asset])
    return linked


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
load_dotenv(REPOSITORY / ".env")
_role, _profile = role_in_force(), active_profile()
if _role is not None:
    drop_other_keys(_role)
check_keys()
if _role == "judge":
    # Known when the host starts, not hours later, when the first answers are to be judged.
    check_judge(_profile.judging)
defs = build_definitions(_profile, role=_role)
