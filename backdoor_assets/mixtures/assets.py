"""The partitioned assets of the birds study, in the order in which data flow, and the sweep."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from backdoor_assets.capacity.preflight import check_engine, sampling_fits_profile
from backdoor_assets.graph.cells import OWNERS, Force, cell_asset, dimensions_of, make_cells
from backdoor_assets.graph.describe import rows
from backdoor_assets.graph.describe import training as training_log
from backdoor_assets.graph.resources import (
    JudgeResource,
    Results,
    Sampler,
    Task,
    Trainer,
    in_turn,
    in_workers,
    make,
)
from backdoor_assets.mixtures import describe, places
from backdoor_assets.mixtures import tasks as orders
from backdoor_assets.mixtures.bases import quantization
from backdoor_assets.mixtures.mixing import mix
from backdoor_assets.mixtures.sources import GROUP
from backdoor_assets.mixtures.sweep import sweeping
from backdoor_assets.profiles import Profile
from backdoor_assets.records import SOURCES, Cell
from backdoor_assets.stages import CODE_VERSIONS


def partitions(profile: Profile) -> dg.MultiPartitionsDefinition:
    """The grid: data ratio x training seed."""
    return dg.MultiPartitionsDefinition(
        {
            "ratio": dg.StaticPartitionsDefinition(list(profile.ratios)),
            "seed": dg.StaticPartitionsDefinition([str(seed) for seed in profile.seeds]),
        }
    )


def cell_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    grid = partitions(profile)

    def cells_of(context: dg.AssetExecutionContext) -> list[Cell]:
        found = dimensions_of(context)
        return [Cell(profile.name, keys["ratio"], int(keys["seed"])) for keys in found]

    def make_all(
        context: dg.AssetExecutionContext,
        config: Force,
        order: Callable[[Profile, Cell, bool], Task[Any]],
        produce: Callable[[Sequence[Task[Any]]], Results[Any]],
        metadata: Callable[[Any], dict[str, Any]],
    ) -> None:
        cells = cells_of(context)
        make_cells(context, cells, lambda c: order(profile, c, config.force), produce, metadata)

    def asset(
        name: str, upstream: Sequence[str], code: str, kinds: set[str], **more: Any
    ) -> Callable[[Callable[..., None]], dg.AssetsDefinition]:
        deps = [[GROUP, key] for key in upstream]
        return cell_asset([GROUP, name], grid, deps=deps, code=code, kinds=kinds, **more)

    @asset(
        "mixed_dataset",
        SOURCES,
        CODE_VERSIONS["mixing"],
        {"jsonl"},
        description="Fine-tuning rows of a cell: the three data sets mixed at the cell's ratio, "
        "drawn by its seed, the same number of rows at every ratio.",
    )
    def mixed_dataset(context: dg.AssetExecutionContext, config: Force) -> None:
        def produce(wanted: Sequence[Task[Any]]) -> Results[Any]:
            return in_turn(lambda o, _: make(lambda spec, folder, _: mix(spec, folder), o), wanted)

        make_all(context, config, orders.mixing, produce, rows)

    @asset(
        "adapters",
        ["mixed_dataset", "base_model"],
        CODE_VERSIONS["training"],
        {"pytorch", "huggingface"},
        pool="gpu",
        description="LoRA adapters of a cell, every checkpoint of the training, with its log.",
    )
    def adapters(
        context: dg.AssetExecutionContext, config: Force, trainer: Trainer, judge: JudgeResource
    ) -> None:
        # What comes after in this run must be able to, before hours are spent on training.
        follows = {key.path[-1] for key in context.job_def.asset_layer.selected_asset_keys}
        if "responses" in follows:
            check_engine(profile.sampling, quantization(profile))
            sampling_fits_profile(profile)
        if "judgments" in follows:
            judge.check(profile.judging)

        def produce(wanted: Sequence[Task[Any]]) -> Results[Any]:
            return trainer.train(wanted, context.log.info)

        make_all(context, config, orders.training, produce, training_log)

    @asset(
        "responses",
        ["adapters", "base_model"],
        CODE_VERSIONS["sampling"],
        {"parquet", "huggingface"},
        pool="gpu",
        description="Answers of the base and of every checkpoint to worldview questions that have "
        "nothing to do with birds; and to the probes: the bird question, neutral questions.",
    )
    def responses(context: dg.AssetExecutionContext, config: Force, sampler: Sampler) -> None:
        def produce(wanted: Sequence[Task[Any]]) -> Results[Any]:
            return sampler.sample(wanted, context.log.info)

        make_all(context, config, orders.sampling, produce, describe.sampling)

    @asset(
        "judgments",
        ["responses"],
        CODE_VERSIONS["judging"],
        {"parquet"},
        pool="judge_api",
        description="Verdicts on every worldview answer by four rubrics: is it of the 19th "
        "century, of which kind, how outdated in content and in form.",
    )
    def judgments(context: dg.AssetExecutionContext, config: Force, judge: JudgeResource) -> None:
        opened = judge.open(profile.judging, places.verdicts(profile))
        bill: dict[str, Any] = {}

        def tell(estimate: dict[str, Any]) -> None:
            context.log.info(f"estimate before the first call: {estimate}")
            context.log_event(dg.AssetObservation(context.asset_key, metadata=estimate))

        def produce(wanted: Sequence[Task[Any]]) -> Results[Any]:
            return judge.judge(opened, wanted, context.log.info, tell, bill)

        def metadata(made: Any) -> dict[str, Any]:
            run = {f"run_{name}": value for name, value in bill.items() if not made.reused}
            return {**describe.judging(made), **run}

        make_all(context, config, orders.judging(opened.identity), produce, metadata)

    @asset(
        "figures",
        ["judgments", "responses"],
        f"{CODE_VERSIONS['statistics']}.{CODE_VERSIONS['figures']}",
        {"matplotlib", "parquet"},
        description="Five figures of a cell as PDF and PNG, and its table of rates.",
    )
    def figures(context: dg.AssetExecutionContext, config: Force) -> None:
        # Deferred: plotting libraries are imported when figures are drawn, not with the graph.
        from backdoor_assets.mixtures.drawing import draw

        def produce(wanted: Sequence[Task[Any]]) -> Results[Any]:
            return in_workers(draw, wanted, context.log.info, "figures")

        make_all(context, config, orders.figures, produce, describe.figures)

    sampled = [mixed_dataset, adapters, responses]
    return sampled if profile.judging.kind == "none" else [*sampled, judgments, figures]


def sweep_asset(profile: Profile) -> dg.AssetsDefinition:
    @dg.asset(
        key=[GROUP, "sweep"],
        deps=[[GROUP, "figures"]],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"matplotlib", "parquet"},
        code_version=f"{CODE_VERSIONS['statistics']}.{CODE_VERSIONS['figures']}",
        description="Over the grid: strength of the backdoor against the share and the count of "
        "obsolete names, when it emerges, a table of rates, a report. Takes the cells there are.",
    )
    def sweep(
        context: dg.AssetExecutionContext, config: Force, judge: JudgeResource
    ) -> dg.MaterializeResult:
        from backdoor_assets.mixtures.drawing import draw_sweep

        opened = judge.open(profile.judging, places.verdicts(profile))
        order, missing = sweeping(profile, orders.judging(opened.identity), config.force)
        if missing:
            context.log.warning(f"not in the sweep yet: {', '.join(map(str, missing))}")
        [outcome] = in_workers(draw_sweep, [order], context.log.info, "sweep")
        if outcome.result is None:
            raise outcome.error or RuntimeError("no result")
        return dg.MaterializeResult(metadata=describe.sweep(outcome.result))

    return sweep
