"""What Dagster loads: all studies that are found, under the profile in force."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

import dagster as dg

from backdoor_assets.credentials import check_keys
from backdoor_assets.graph.instance import progress_logger
from backdoor_assets.graph.study import Study, find_studies
from backdoor_assets.profiles import Profile, active_profile, load_dotenv
from backdoor_assets.storage.provenance import REPOSITORY

# Backfill policies and pools are marked beta; the pinned version is the one that was tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_definitions(profile: Profile, studies: Iterable[Study] | None = None) -> dg.Definitions:
    """Return the graph of a profile, with all studies that can run under it. Raises BadInput for a
    bad study or profile."""
    chosen = find_studies().values() if studies is None else studies
    parts = [study.definitions(profile) for study in chosen if not study.refusal(profile)]
    resources = {name: value for part in parts for name, value in (part.resources or {}).items()}
    assets = [asset for part in parts for asset in part.assets or ()]
    return dg.Definitions(
        assets=assets,
        jobs=[job for part in parts for job in part.jobs or ()],
        resources=resources,
        # Heavy work has processes of its own, so that steps need none.
        executor=dg.in_process_executor,
        loggers={"console": dg.colored_console_logger, "progress": progress_logger},
    )


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
load_dotenv(REPOSITORY / ".env")
check_keys()
defs = build_definitions(active_profile())
