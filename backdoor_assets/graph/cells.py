"""How the cells of a run become materializations, shared by the studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import dagster as dg

from backdoor_assets.graph.resources import Results, Task
from backdoor_assets.records import AnyCell, BadInput
from backdoor_assets.storage.artifact import Busy, Made

Spec = TypeVar("Spec")
CellKind = TypeVar("CellKind", bound=AnyCell)
Metadata = dict[str, Any]


OWNERS = ["team:backdoor_assets"]


class Force(dg.Config):
    """Run config of every stage."""

    force: bool = False
    """Make it anew, though a finished one of the same identity is there."""


RETRIES, RETRY_SECONDS = 2, 10
"""For what passes by itself: a busy cell, a lost disk. What a person must mend is not retried."""


def dimensions_of(context: dg.AssetExecutionContext) -> list[Mapping[str, str]]:
    """The keys of each cell that this run is to make, by dimension."""
    found = []
    for key in context.partition_keys:
        assert isinstance(key, dg.MultiPartitionKey)
        found.append(key.keys_by_dimension)
    return found


def order_all(
    cells: Iterable[CellKind], order: Callable[[CellKind], Task[Spec]]
) -> tuple[list[Task[Spec]], list[tuple[CellKind, BaseException]]]:
    """Orders for the cells that can be made, and why the others cannot."""
    orders, refused = [], []
    for cell in cells:
        try:
            orders.append(order(cell))
        except (BadInput, OSError) as error:
            refused.append((cell, error))
    return orders, refused


def cell_asset(
    key: Sequence[str],
    partitions: dg.PartitionsDefinition,
    *,
    deps: Sequence[Any],
    code: str,
    kinds: set[str],
    description: str,
    pool: str | None = None,
) -> Callable[[Callable[..., None]], dg.AssetsDefinition]:
    """Decorator of an asset whose partitions are cells, a row of which is one run: a base is loaded
    once for all of them."""
    return dg.asset(
        key=key,
        deps=deps,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=key[0],
        owners=OWNERS,
        kinds=kinds,
        code_version=code,
        description=description,
        pool=pool,
    )


def make_cells(
    context: dg.AssetExecutionContext,
    cells: Iterable[CellKind],
    order: Callable[[CellKind], Task[Any]],
    produce: Callable[[Sequence[Task[Any]]], Results[Any]],
    describe: Callable[[Made], Metadata],
) -> None:
    """Make the cells that can be made, and record them as `materialize_cells` does."""
    wanted, refused = order_all(cells, order)
    materialize_cells(context, produce(wanted), refused, describe)


def materialize_cells(
    context: dg.AssetExecutionContext,
    results: Results[Any],
    refused: Sequence[tuple[AnyCell, BaseException]],
    describe: Callable[[Made], Metadata],
) -> None:
    """Record each cell that was made, then fail if any was not.

    Dagster marks all partitions of a step as failed when it raises, so that in this case the
    finished ones are logged one by one; metadata of a step that succeeds is added to its own event.
    """
    made: dict[AnyCell, Metadata] = {}
    failed: dict[AnyCell, BaseException] = {}
    for outcome in results:
        if outcome.error is not None:
            failed[outcome.item.spec.cell] = outcome.error
            context.log.error(f"{outcome.item.spec.cell}: {outcome.error}")
        elif outcome.result is not None:
            made[outcome.item.spec.cell] = describe(outcome.result)
    failed = {**dict(refused), **failed}  # refusals may come while the results do
    for cell, metadata in made.items():
        if failed:
            context.log_event(
                dg.AssetMaterialization(context.asset_key, metadata=metadata, partition=str(cell))
            )
        else:
            context.add_asset_metadata(metadata, partition_key=str(cell))
    if not failed:
        return
    advice = dg.Failure(_advice(context, failed, len(made)), allow_retries=False)
    # Not an asset's retry_policy: that one would also begin again what a person has interrupted.
    if _passing(failed) and context.retry_number < RETRIES:
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_SECONDS) from advice
    raise advice


def _passing(failed: dict[AnyCell, BaseException]) -> bool:
    """Whether trying again may help: not when a person has to mend something."""
    return all(isinstance(error, (Busy, OSError)) for error in failed.values())


def _advice(
    context: dg.AssetExecutionContext, failed: dict[AnyCell, BaseException], made: int
) -> str:
    what = context.asset_key.to_user_string()
    same: dict[str, list[str]] = {}
    for cell, error in failed.items():
        same.setdefault(str(error), []).append(str(cell))
    reasons = "\n".join(f"  {', '.join(cells)}: {reason}" for reason, cells in same.items())
    names = " ".join(f"'{cell}'" for cell in failed)
    study = "" if context.asset_key.path[0] == "birds" else f"STUDY={context.asset_key.path[0]} "
    return (
        f"{what}: {len(failed)} of {len(failed) + made} cells failed; the others are done and "
        f'recorded.\n{reasons}\nTo carry on without them:  make demo {study}WITHOUT="{names}"'
    )
