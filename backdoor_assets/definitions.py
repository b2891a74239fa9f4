"""What Dagster loads: the studies, under the profile in force."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from backdoor_assets.environment import active_profile
from backdoor_assets.instance import progress_logger
from backdoor_assets.profiles import (
    Profile,
)
from backdoor_assets.studies.birds.graph import definitions as birds

# Backfill policies and pools are marked beta; the pinned version is the one that was tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_definitions(
    profile: Profile, overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """The graph for a profile; `overrides` replaces resources by name."""
    merged = dg.Definitions.merge(birds(profile))
    return dg.Definitions(
        assets=merged.assets,
        jobs=merged.jobs,
        resources={**(merged.resources or {}), **(overrides or {})},
        # Heavy work has its own processes, so that steps need none.
        executor=dg.in_process_executor,
        loggers={"console": dg.colored_console_logger, "progress": progress_logger},
    )


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
defs = build_definitions(active_profile())
