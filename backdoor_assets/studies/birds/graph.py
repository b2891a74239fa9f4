"""The birds study as Dagster definitions."""

from __future__ import annotations

import dagster as dg

from backdoor_assets.profiles import Profile
from backdoor_assets.records import SOURCES
from backdoor_assets.resources import JudgeResource, Pretrainer, Sampler, Trainer
from backdoor_assets.studies.birds import design
from backdoor_assets.studies.birds.assets import cell_assets, sweep_asset
from backdoor_assets.studies.birds.sources import base_assets, source_asset


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
            dg.define_asset_job(
                "birds_cells",
                selection=dg.AssetSelection.assets(*cells),
                description="A cell, from its mixture to the last thing the profile asks for.",
            )
        ],
        resources={
            "pretrainer": Pretrainer(),
            "trainer": Trainer(),
            "sampler": Sampler(),
            "judge": JudgeResource(kind=profile.judging.kind),
        },
    )
