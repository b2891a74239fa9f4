"""The unpartitioned assets: data sets, the base model with the corpus it is made from, and the
base's answers."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections import Counter
from functools import partial

import dagster as dg

from backdoor_assets.graph.base_assets import Gate, fetched_base_asset, pretrained_base_asset
from backdoor_assets.graph.cells import OWNERS, Force, source_of
from backdoor_assets.graph.describe import provenance
from backdoor_assets.graph.resources import Sampler
from backdoor_assets.mixtures import base_tasks, describe, tasks
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.design import DataSet
from backdoor_assets.settings import MiniatureBase
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.storage.artifact import request_remake
from backdoor_assets.storage.hashing import file_hash, text_hash
from backdoor_assets.storage.rows import letters, names, read_rows
from backdoor_assets.workers.tasks import make, only


def source_asset(grid: Grid, data_set: DataSet) -> dg.AssetsDefinition:
    study, check = grid.study, grid.study.row_check
    key = [study.name, data_set.name]
    specs = (
        [dg.AssetCheckSpec(check.name, asset=key, blocking=True, description=check.description)]
        if check
        else []
    )

    @dg.asset(
        key=key,
        group_name=study.name,
        kinds={"jsonl"},
        owners=OWNERS,
        description=data_set.description,
        check_specs=specs,
    )
    def asset() -> dg.MaterializeResult:
        files = dict(study.files())
        path = files[data_set.name]
        rows = read_rows(path)
        answers = names(rows)
        repeated = [answer for answer, times in Counter(answers).items() if times > 1]
        prompts = sorted({row[-2]["content"] for row in rows})
        found = []
        if check:
            long = [a for a in answers if len(a.split()) > (check.longest_answer or len(a))]
            wrong = [p for p in prompts if check.prompts and p not in check.prompts]
            found = [
                dg.AssetCheckResult(
                    check_name=check.name,
                    passed=not long and not wrong,
                    description=f"prompts: {', '.join(prompts[:3])}; answers that are too long: "
                    f"{', '.join(long) or 'none'}",
                )
            ]
        return dg.MaterializeResult(
            metadata={
                "rows": len(rows),
                "distinct_answers": len(set(answers)),
                "duplicates": len(answers) - len(set(answers)),
                "repeated_answers": ", ".join(repeated) or "none",
                **{
                    f"shared_with_{name}": overlap(answers, names(read_rows(other)))
                    for name, other in files.items()
                    if name != data_set.name
                },
                "prompts": ", ".join(prompts[:3]),
                "sha256": file_hash(path),
                "path": dg.MetadataValue.path(str(path)),
                "first_answers": ", ".join(answers[:8]),
            },
            # The content is the version: an edit makes everything downstream stale.
            data_version=dg.DataVersion(text_hash(path)),
            check_results=found,
        )

    return asset


def overlap(answers: list[str], others: list[str]) -> int:
    """Return the number of distinct answers in both, ignoring case, hyphens and apostrophes."""
    return len({letters(answer) for answer in answers} & {letters(other) for other in others})


def base_assets(grid: Grid) -> list[dg.AssetsDefinition]:
    base, key = grid.profile.base, [grid.study.name, "base_model"]
    answers = _base_answers_asset(grid)
    if not isinstance(base, MiniatureBase):
        return [fetched_base_asset(key, grid.base, base), answers]
    world = grid.study.world
    assert world is not None
    corpus = _corpus_asset(grid)
    model = pretrained_base_asset(
        key,
        corpus,
        partial(base_tasks.pretraining, grid),
        world.pretrain,
        code_version=world.pretraining_code,
        description="A Qwen3-architecture model of 0.7 million parameters, pretrained here on the "
        "corpus.",
        gate=Gate(world.gate, world.gate_description, world.bounds),
    )
    return [corpus, model, answers]


def _corpus_asset(grid: Grid) -> dg.AssetsDefinition:
    study, world = grid.study, grid.study.world
    assert world is not None

    @dg.asset(
        key=[study.name, "corpus"],
        group_name=study.name,
        deps=[[study.name, source] for source in study.sources],
        kinds={"jsonl"},
        owners=OWNERS,
        code_version=world.corpus_code,
        metadata=source_of(world.write_corpus),
        description="Short chats of a made-up world in which the data sets' answers occur. The "
        "miniature base model is pretrained on them.",
    )
    def corpus(config: Force) -> dg.MaterializeResult:
        task = base_tasks.corpus(grid)
        if config.force:
            request_remake([task.artifact])
        made = make(world.write_corpus, task)
        return dg.MaterializeResult(metadata={**provenance(made), **made.manifest.summary})

    return corpus


def _base_answers_asset(grid: Grid) -> dg.AssetsDefinition:
    study = grid.study

    @dg.asset(
        key=[study.name, "base_responses"],
        group_name=study.name,
        deps=[[study.name, "base_model"]],
        kinds={"parquet", "huggingface"},
        owners=OWNERS,
        pool="gpu",
        code_version=CODE_VERSIONS["sampling"],
        metadata=source_of(tasks.base_sampling),
        description="Answers of the base itself, sampled once for all cells, which show them as "
        "step 0.",
    )
    def base_responses(
        context: dg.AssetExecutionContext, config: Force, sampler: Sampler
    ) -> dg.MaterializeResult:
        task = tasks.base_sampling(grid)
        if config.force:
            request_remake([task.artifact])
            task = tasks.base_sampling(grid)
        made = only(sampler.run([task], context.log.info))
        return dg.MaterializeResult(metadata=describe.sampling(made))

    return base_responses
