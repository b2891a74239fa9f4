"""How the cells of a run become materializations, shared by the studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import dagster as dg

from backdoor_assets.records import BadInput, Cell
from backdoor_assets.resources import Order, Results
from backdoor_assets.storage import Busy, Made

Job = TypeVar("Job")
Metadata = dict[str, Any]


RETRIES, RETRY_SECONDS = 2, 10
"""For what passes by itself: a busy cell, a lost disk. What a person must mend is not retried."""


def cells_of(context: dg.AssetExecutionContext, profile_name: str) -> list[Cell]:
    """The cells that this run is to make."""
    cells = []
    for key in context.partition_keys:
        assert isinstance(key, dg.MultiPartitionKey)
        dimensions = key.keys_by_dimension
        cells.append(Cell(profile_name, dimensions["ratio"], int(dimensions["seed"])))
    return cells


def order_all(
    cells: Iterable[Cell], order: Callable[[Cell], Order[Job]]
) -> tuple[list[Order[Job]], list[tuple[Cell, BaseException]]]:
    """Orders for the cells that can be made, and why the others cannot."""
    orders, refused = [], []
    for cell in cells:
        try:
            orders.append(order(cell))
        except (BadInput, OSError) as error:
            refused.append((cell, error))
    return orders, refused


def materialize_cells(
    context: dg.AssetExecutionContext,
    results: Results[Any],
    refused: Sequence[tuple[Cell, BaseException]],
    describe: Callable[[Made], Metadata],
) -> None:
    """Record each cell that was made, then fail if any was not.

    Dagster marks all partitions of a step as failed when it raises, so that in this case the
    finished ones are logged one by one; metadata of a step that succeeds is added to its own event.
    """
    made: dict[Cell, Metadata] = {}
    failed: dict[Cell, BaseException] = dict(refused)
    for outcome in results:
        if outcome.error is not None:
            failed[outcome.job.job.cell] = outcome.error
            context.log.error(f"{outcome.job.job.cell}: {outcome.error}")
        elif outcome.result is not None:
            made[outcome.job.job.cell] = describe(outcome.result)
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


def _passing(failed: dict[Cell, BaseException]) -> bool:
    """Whether trying again may help: not when a person has to mend something."""
    return all(isinstance(error, (Busy, OSError)) for error in failed.values())


def _advice(context: dg.AssetExecutionContext, failed: dict[Cell, BaseException], made: int) -> str:
    what = context.asset_key.to_user_string()
    same: dict[str, list[str]] = {}
    for cell, error in failed.items():
        same.setdefault(str(error), []).append(str(cell))
    reasons = "\n".join(f"  {', '.join(cells)}: {reason}" for reason, cells in same.items())
    names = " ".join(f"'{cell}'" for cell in failed)
    return (
        f"{what}: {len(failed)} of {len(failed) + made} cells failed; the others are done and "
        f'recorded.\n{reasons}\nTo carry on without them:  make demo WITHOUT="{names}"'
    )
