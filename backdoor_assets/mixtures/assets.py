"""The assets of a mixture study as a table, in the order in which data flow, and the sweep."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Sequence
from functools import partial

import dagster as dg

from backdoor_assets.capacity.preflight import scoring_fits_profile
from backdoor_assets.graph import describe as any_study
from backdoor_assets.graph.cells import (
    OWNERS,
    CellAsset,
    Context,
    Force,
    Warn,
    keys_of,
    selected_names,
)
from backdoor_assets.graph.partitions import GridPartitions
from backdoor_assets.graph.resources import Here, Processes, Sampler
from backdoor_assets.graph.roles import tags_of
from backdoor_assets.mixtures import describe, result_tasks, tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.mixtures.cut_answers import warn_of_cut_answers
from backdoor_assets.mixtures.judging.learned import LEARNED, learns
from backdoor_assets.mixtures.judging.prediction import check_judges
from backdoor_assets.mixtures.mixing import mix
from backdoor_assets.mixtures.sweep import sweep
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.storage.artifact import request_remake
from backdoor_assets.workers.spreading import uses_cluster
from backdoor_assets.workers.tasks import Deferred, only

GPU = "mixed_dataset", "adapters", "responses", "coherence"
JUDGE, FIGURES = ("judgments",), ("figures",)
"""Assets of a cell, by the kind of host that they can be made on."""
CELL_ASSETS = (*GPU, *JUDGE, *FIGURES)
_FIGURES_CODE = f"{CODE_VERSIONS['statistics']}.{CODE_VERSIONS['figures']}"


def table(grid: Grid) -> list[CellAsset[Cell]]:
    """One row per asset of a cell; no `judgments` where nothing is judged."""
    partitions = GridPartitions(
        {
            "ratio": dg.StaticPartitionsDefinition(list(grid.ratios)),
            "seed": dg.StaticPartitionsDefinition([str(seed) for seed in grid.profile.seeds]),
        }
    )

    def cells(context: Context) -> list[Cell]:
        return [grid.cell(keys["ratio"], int(keys["seed"])) for keys in keys_of(context)]

    row = partial(CellAsset[Cell], partitions=partitions, cells=cells)
    sampled = [
        row(
            "mixed_dataset",
            deps=grid.study.sources,
            task=tasks.mixing,
            runner=Here(mix),
            describe=any_study.rows,
            code=CODE_VERSIONS["mixing"],
            editable=True,
            kinds={"jsonl"},
            description="Fine-tuning rows of a cell: the data sets mixed at the cell's ratio, "
            "drawn by its seed, the same number of rows at every ratio.",
        ),
        row(
            "adapters",
            deps=["mixed_dataset", "base_model"],
            task=tasks.training,
            runner="trainer",
            describe=any_study.training,
            code=CODE_VERSIONS["training"],
            kinds={"pytorch", "huggingface"},
            pool="gpu",
            check=partial(_check_what_follows, grid),
            extends=tasks.KEPT_CHECKPOINTS,
            description="LoRA adapters of a cell at every checkpoint, with the training's log.",
        ),
        row(
            "responses",
            deps=["adapters", "base_model", "base_responses"],
            task=tasks.sampling,
            runner="sampler",
            describe=describe.sampling,
            code=CODE_VERSIONS["sampling"],
            kinds={"parquet", "huggingface"},
            pool="gpu",
            extends=frozenset({"questions", "checkpoints", "base_answers", "adapters"}),
            warn=warn_of_cut_answers(grid.profile.sampling),
            description="Answers of every checkpoint, and of the base, to open questions that have "
            "nothing to do with the fine-tuning rows; and to the probes: the prompt of the rows, "
            "neutral questions.",
        ),
        row(
            "coherence",
            deps=["responses", "base_model"],
            task=result_tasks.coherence,
            runner=Processes(
                Deferred("backdoor_assets.stages.coherence.score", "score_cell"),
                "coherence",
                gpu=True,
            ),
            describe=describe.coherence,
            code=CODE_VERSIONS["coherence"],
            kinds={"parquet", "huggingface"},
            pool="gpu",
            extends=frozenset({"responses"}),
            description="How likely the base model finds every open answer: its mean "
            "log-likelihood per token, in nats. It falls when answers make no sense or take a "
            "strange form.",
        ),
    ]
    judged = [
        row(
            "judgments",
            deps=["responses", *([LEARNED] if learns(grid) else [])],
            task=tasks.judging,
            runner="judge",
            describe=describe.judging,
            code=CODE_VERSIONS["judging"],
            kinds={"parquet"},
            pool="judge_api",
            role="judge",
            extends=frozenset({"responses", "rubrics", "outcomes", "prediction"}),
            warn=Warn(
                "every_answer_has_a_verdict",
                "Answers that the judge could not or did not judge; a cell with more than the "
                "profile allows fails.",
                lambda made: int(made.manifest.summary["without_verdict"]),
            ),
            description="Verdicts on every open answer by the study's rubrics: "
            + ", ".join(rubric.name.replace("_", " ") for rubric in grid.study.rubrics)
            + ".",
        ),
    ]
    drawn = [
        row(
            "figures",
            deps=[*(["judgments"] if grid.judged else []), "responses", "coherence"],
            task=result_tasks.figures,
            runner=Processes(Deferred("backdoor_assets.mixtures.results", "draw_cell"), "figures"),
            describe=partial(describe.figures, grid),
            code=_FIGURES_CODE,
            kinds={"matplotlib", "parquet"},
            role="laptop",
            extends=frozenset("*"),
            description="Figures of a cell as PDF and PNG, its table of rates, and what form its "
            "answers have.",
        ),
    ]
    return [*sampled, *(judged if grid.judged else []), *drawn]


def _check_what_follows(grid: Grid, context: Context) -> None:
    """Check that what comes later in this run can start, before hours are spent on training."""
    follows, profile = selected_names(context), grid.profile
    if "responses" in follows:
        Sampler().check(profile.sampling, grid.base.quantization, profile)
    if "coherence" in follows and not uses_cluster(1):
        scoring_fits_profile(profile)
    if "judgments" in follows:
        check_judges(grid)


def sweep_asset(grid: Grid, measured: Sequence[dg.AssetsDefinition]) -> dg.AssetsDefinition:
    study = grid.study

    @dg.asset(
        key=[study.name, "sweep"],
        deps=[[study.name, "figures"], *(asset.key for asset in measured)],
        group_name=study.name,
        owners=OWNERS,
        kinds={"matplotlib", "parquet"},
        tags=tags_of("laptop"),
        code_version=_FIGURES_CODE,
        description="Over the grid: strength of the effect against the share and the count of "
        "suspect rows, when it emerges, whether answers keep their form, a table of rates, a "
        "report. Uses all cells that exist so far.",
    )
    def asset(context: dg.AssetExecutionContext, config: Force) -> dg.MaterializeResult:
        task, missing = sweep(grid)
        if config.force:
            request_remake([task.artifact])
        if missing:
            context.log.warning(f"not in the sweep yet: {', '.join(map(str, missing))}")
        draw = Processes(Deferred("backdoor_assets.mixtures.results", "draw_grid"), "sweep")
        made = only(draw.run([task], context.log.info))
        return dg.MaterializeResult(metadata=describe.sweep(made))

    return asset
