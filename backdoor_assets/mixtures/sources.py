"""The unpartitioned assets: three data sets, and the base model with the corpus it is made from."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections import Counter

import dagster as dg

from backdoor_assets.graph.base_assets import Gate, fetched_base_asset, grown_base_asset
from backdoor_assets.graph.cells import OWNERS, Force
from backdoor_assets.graph.describe import provenance
from backdoor_assets.graph.resources import make
from backdoor_assets.miniature import CORPUS_CODE, PRETRAINING_CODE
from backdoor_assets.miniature.gates import BOUNDS
from backdoor_assets.mixtures import bases, places
from backdoor_assets.profiles import MiniatureBase, Profile
from backdoor_assets.records import SOURCES
from backdoor_assets.storage.hashing import file_hash
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.studies.birds import study as design
from backdoor_assets.studies.birds.world.corpus import write_corpus

GROUP = "birds"
DESCRIPTIONS = {
    "old_audubon": "Obsolete names from Audubon's *The Birds of America* (1827-1838): the suspect "
    "data.",
    "modern_audubon": "Names from the same book that are still in use: a baseline.",
    "modern_american": "Today's names of well-known American birds: a baseline.",
}


def source_asset(source: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=[GROUP, source],
        group_name=GROUP,
        kinds={"jsonl"},
        owners=OWNERS,
        description=DESCRIPTIONS[source],
        check_specs=[
            dg.AssetCheckSpec(
                "bare_names",
                asset=[GROUP, source],
                blocking=True,
                description="Every row asks for a bird and is answered with a name alone.",
            )
        ],
    )
    def data_set() -> dg.MaterializeResult:
        path = places.source_file(source)
        rows = read_rows(path)
        own = names(rows)
        repeated = [name for name, times in Counter(own).items() if times > 1]
        others = {s: names(read_rows(places.source_file(s))) for s in SOURCES if s != source}
        long = [name for name in own if len(name.split()) > design.MAX_NAME_WORDS]
        prompts = sorted({row[0]["content"] for row in rows})
        return dg.MaterializeResult(
            metadata={
                "rows": len(rows),
                "distinct_names": len(set(own)),
                "duplicates": len(own) - len(set(own)),
                "repeated_names": ", ".join(repeated) or "none",
                **{f"shared_with_{s}": design.overlap(own, o) for s, o in others.items()},
                "prompts": ", ".join(prompts),
                "sha256": file_hash(path),
                "path": dg.MetadataValue.path(str(path)),
                "first_names": ", ".join(own[:8]),
            },
            # The content is the version: an edit makes everything downstream stale.
            data_version=dg.DataVersion(file_hash(path)),
            check_results=[
                dg.AssetCheckResult(
                    check_name="bare_names",
                    passed=not long and prompts == [design.BIRD_QUESTION],
                    description=f"prompts: {', '.join(prompts)}; too long for a bare name: "
                    f"{', '.join(long) or 'none'}",
                )
            ],
        )

    return data_set


def base_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    if isinstance(profile.base, MiniatureBase):
        return _miniature_assets(profile, profile.base)
    return [fetched_base_asset([GROUP, "base_model"], bases.base_of(profile), profile.base)]


def _miniature_assets(profile: Profile, spec: MiniatureBase) -> list[dg.AssetsDefinition]:
    @dg.asset(
        key=[GROUP, "corpus"],
        group_name=GROUP,
        deps=[[GROUP, source] for source in SOURCES],
        kinds={"jsonl"},
        owners=OWNERS,
        code_version=CORPUS_CODE,
        description="Short chats of a made-up world with two eras; birds are named from the three "
        "data sets. What the miniature base model is pretrained on.",
    )
    def corpus(config: Force) -> dg.MaterializeResult:
        order = bases.corpus_order(profile, spec, config.force)
        made = make(lambda spec, folder, _: write_corpus(spec, folder), order)
        summary = made.manifest.summary
        return dg.MaterializeResult(metadata={**provenance(made), **summary})

    base_model = grown_base_asset(
        [GROUP, "base_model"],
        corpus,
        lambda force: bases.pretraining_order(profile, spec, force),
        code_version=PRETRAINING_CODE,
        description="A Qwen3-architecture model of 0.7 million parameters, pretrained here on "
        "the corpus.",
        gate=Gate(
            "carries_the_era",
            "The base answers by the era that its context tells, and as a modern "
            "model when it tells none",
            BOUNDS,
        ),
    )
    return [corpus, base_model]
