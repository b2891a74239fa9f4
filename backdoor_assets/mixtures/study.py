"""The birds study as Dagster definitions."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from backdoor_assets.graph.resources import JudgeResource, Pretrainer, Sampler, Trainer
from backdoor_assets.mixtures.assets import cell_assets, sweep_asset
from backdoor_assets.mixtures.sources import base_assets, source_asset
from backdoor_assets.profiles import Profile
from backdoor_assets.records import SOURCES
from backdoor_assets.studies.birds import study as design
from backdoor_assets.studies.birds.study import CELL_ASSETS, FIGURES, GPU, JUDGE

JOBS = {
    "birds_cells": (
        CELL_ASSETS,
        "A cell, from its mixture to the last thing the profile asks for.",
    ),
    "birds_gpu": (GPU, "On a GPU host: from the mixture to the answers."),
    "birds_judge": (
        JUDGE,
        "On a host that may call the judge: verdicts on answers whose files are there.",
    ),
    "birds_figures": (
        FIGURES,
        "On any host: figures from verdicts and answers whose files are there.",
    ),
}
"""The assets of each job: what can run on another machine than the rest, from copied files."""


def definitions(profile: Profile) -> dg.Definitions:
    """Assets, checks, resources and the job of the study. Raises BadInput for a bad profile."""
    design.check_profile(profile)
    cells = cell_assets(profile)
    return dg.Definitions(
        assets=[
            *(source_asset(source) for source in SOURCES),
            *base_assets(profile),
            *cells,
            *([sweep_asset(profile)] if profile.judging.kind != "none" else []),
        ],
        jobs=[
            job
            for name, (selected, description) in JOBS.items()
            if (job := _job(name, selected, description, cells))
        ],
        resources={
            "pretrainer": Pretrainer(),
            "trainer": Trainer(),
            "sampler": Sampler(),
            "judge": JudgeResource(),
        },
    )


def _job(
    name: str, selected: Sequence[str], description: str, cells: Sequence[dg.AssetsDefinition]
) -> UnresolvedAssetJobDefinition | None:
    """The job over those of its assets that the profile has."""
    assets = [asset for asset in cells if asset.key.path[-1] in selected]
    if not assets:
        return None
    selection = dg.AssetSelection.assets(*assets)
    return dg.define_asset_job(name, selection=selection, description=description)
