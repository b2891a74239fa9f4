"""A study's base model as an asset: pretrained here and gated, or fetched and checked."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg

from backdoor_assets.graph.bases import StudyBase, fetch, fetched_record
from backdoor_assets.graph.cells import OWNERS, Force, source_of
from backdoor_assets.graph.describe import probe_table, provenance
from backdoor_assets.miniature.gates import Bound, failures
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.storage.artifact import Made, request_remake
from backdoor_assets.storage.hashing import digest
from backdoor_assets.workers.tasks import Log, Stage, Task, in_workers, make, one_gpu


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


def pretrained_base_asset(
    key: Sequence[str],
    corpus: dg.AssetsDefinition,
    task: Callable[[], Task[Any]],
    pretrain: Stage,
    *,
    code_version: str,
    description: str,
    gate: Gate,
) -> dg.AssetsDefinition:
    """A base that is pretrained on a corpus of this project, and must pass a gate."""

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
        metadata=source_of(pretrain),
    )
    def base_model(context: dg.AssetExecutionContext, config: Force) -> dg.MaterializeResult:
        wanted = task()
        if config.force:
            request_remake([wanted.artifact])
        [made] = pretrain_all(pretrain, [wanted], context.log.info)
        return pretrained_base(key, made, gate)

    return base_model


def pretrain_all(pretrain: Stage, tasks: Sequence[Task[Any]], log: Log) -> list[Made]:
    """Make bases in worker processes, in the order of their tasks. Raises the first error."""
    made = {}
    for outcome in in_workers(partial(make, pretrain), tasks, log, "base model", gpus=one_gpu):
        if outcome.result is None:
            raise outcome.error or RuntimeError("no result")
        made[outcome.item.artifact.folder] = outcome.result
    return [made[task.artifact.folder] for task in tasks]


def pretrained_base(key: Sequence[str], made: Made, gate: Gate) -> dg.MaterializeResult:
    """Return what a pretrained base is recorded as, with the verdict of its gate."""
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
        task = base.fetching_task(spec)
        if config.force:
            request_remake([task.artifact])
        made = make(fetch, task)
        what = fetched_record(made.folder)
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
