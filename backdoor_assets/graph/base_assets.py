"""A study's base model as an asset: pretrained here and gated, or fetched and checked."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from backdoor_assets.graph.bases import StudyBase, fetch, told
from backdoor_assets.graph.cells import OWNERS, Force
from backdoor_assets.graph.describe import probe_table, provenance
from backdoor_assets.graph.resources import Pretrainer, Task, make
from backdoor_assets.miniature.gates import Bound, failures
from backdoor_assets.profiles import PretrainedBase
from backdoor_assets.stages.specs import PretrainingSpec
from backdoor_assets.storage.artifact import Made
from backdoor_assets.storage.hashing import digest


@dataclass(frozen=True)
class Gate:
    """A blocking check of a base: every probe within its bounds."""

    name: str
    description: str
    bounds: Mapping[str, Bound]

    def spec(self, key: Sequence[str]) -> dg.AssetCheckSpec:
        meanings = "; ".join(bound.meaning for bound in self.bounds.values())
        return dg.AssetCheckSpec(
            self.name, asset=key, blocking=True, description=f"{self.description}: {meanings}"
        )


def grown_base_asset(
    key: Sequence[str],
    corpus: dg.AssetsDefinition,
    order: Callable[[bool], Task[PretrainingSpec]],
    *,
    code_version: str,
    description: str,
    gate: Gate,
) -> dg.AssetsDefinition:
    """A base that is pretrained on a corpus of this project."""

    @dg.asset(
        key=key,
        group_name=key[0],
        deps=[corpus],
        kinds={"pytorch", "huggingface"},
        owners=OWNERS,
        pool="gpu",
        code_version=code_version,
        description=description,
        check_specs=[gate.spec(key)],
    )
    def base_model(
        context: dg.AssetExecutionContext, config: Force, pretrainer: Pretrainer
    ) -> dg.MaterializeResult:
        made = pretrainer.pretrain([order(config.force)], context.log.info)[0]
        return grown_base(key, made, gate)

    return base_model


def grown_base(key: Sequence[str], made: Made, gate: Gate) -> dg.MaterializeResult:
    """What a pretrained base is recorded as, with its gate's verdict."""
    summary = made.manifest.summary
    failed = failures(summary["probes"], gate.bounds)
    return dg.MaterializeResult(
        asset_key=key,
        metadata={
            **provenance(made),
            "parameters": summary["parameters"],
            "final_loss": summary["final_loss"],
            "base_seed": made.manifest.identity["seed"],
            "probes": dg.MetadataValue.md(probe_table(summary["probes"], gate.bounds)),
        },
        check_results=[
            dg.AssetCheckResult(
                asset_key=key,
                check_name=gate.name,
                passed=not failed,
                description="; ".join(failed) or "all probes in bounds",
                metadata={name: float(value) for name, value in summary["probes"].items()},
            )
        ],
    )


def fetched_base_asset(
    key: Sequence[str], base: StudyBase, spec: PretrainedBase, description: str = ""
) -> dg.AssetsDefinition:
    """A base of a hub or a local folder."""

    @dg.asset(
        key=key,
        group_name=key[0],
        kinds={"huggingface"},
        owners=OWNERS,
        description=description
        or "The pretrained base model that the profile names: a local folder, or fetched from the "
        "Hugging Face hub at a pinned commit, and checked.",
    )
    def base_model(config: Force) -> dg.MaterializeResult:
        made = make(
            lambda spec, folder, _: fetch(spec, folder), base.fetching_order(spec, config.force)
        )
        what = told(made.folder)
        return dg.MaterializeResult(
            metadata={
                **provenance(made),
                "model": spec.model,
                "commit": what["commit"] or "local folder",
                "quantization": spec.quantization,
                "config": dg.MetadataValue.json(what["config"]),
            },
            data_version=dg.DataVersion(digest(base.identity())),
        )

    return base_model
