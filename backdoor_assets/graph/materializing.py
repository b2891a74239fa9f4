"""How the cells of a run become materializations, and what is said of those that failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import dagster as dg

from backdoor_assets.storage.artifact import Busy, Made
from backdoor_assets.workers.tasks import Results

Metadata = dict[str, Any]
RETRIES, RETRY_SECONDS = 2, 10
"""For what may pass by itself, such as a busy cell or a lost disk. What a person must fix is not
retried."""


class RunLog:
    """What a run says of itself: lines in its log, observations of its asset, and metadata that is
    added to all that it makes."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self.metadata: Metadata = {}

    def __call__(self, line: str) -> None:
        # Dagster's database may be down. A lost line is no reason to end hours of training; what
        # was made is recorded by events, which still fail the run.
        with suppress(Exception):
            self._context.log.info(line)

    def observe(self, metadata: Metadata) -> None:
        """Record facts that are known before anything is made, such as an estimate."""
        self._context.log_event(dg.AssetObservation(self._context.asset_key, metadata=metadata))


def record(
    context: dg.AssetExecutionContext,
    results: Results[Any],
    refused: Mapping[str, BaseException],
    describe: Callable[[Made], Metadata],
    log: RunLog,
) -> dict[str, Made]:
    """Record each cell that was made, then fail if any was not; return what was made by cell.

    Dagster marks all partitions of a step as failed when it raises. In this case the finished ones
    are logged one by one; metadata of a step that succeeds is added to its own event. `refused`
    holds the cells that have no task, and may grow while the results arrive.
    """
    made: dict[str, Metadata] = {}
    artifacts: dict[str, Made] = {}
    failed: dict[str, BaseException] = {}
    for outcome in results:
        cell = str(outcome.item.spec.cell)
        if outcome.error is not None:
            failed[cell] = outcome.error
            context.log.error(f"{cell}: {outcome.error}")
        elif outcome.result is not None:
            extra = {} if outcome.result.reused else log.metadata
            made[cell] = {**describe(outcome.result), **extra}
            artifacts[cell] = outcome.result
    failed = {**refused, **failed}
    for cell, metadata in made.items():
        if failed:
            event = dg.AssetMaterialization(context.asset_key, metadata=metadata, partition=cell)
            context.log_event(event)
        else:
            context.add_asset_metadata(metadata, partition_key=cell)
    if not failed:
        return artifacts
    failure = dg.Failure(_advice(context, failed, len(made)), allow_retries=False)
    # An asset's retry_policy would also restart what a person has interrupted.
    may_pass = all(isinstance(error, (Busy, OSError)) for error in failed.values())
    if may_pass and context.retry_number < RETRIES:
        raise dg.RetryRequested(RETRIES, RETRY_SECONDS) from failure
    raise failure


def _advice(
    context: dg.AssetExecutionContext, failed: Mapping[str, BaseException], made: int
) -> str:
    study = context.asset_key.path[0]
    by_reason: dict[str, list[str]] = {}
    for cell, error in failed.items():
        by_reason.setdefault(str(error), []).append(cell)
    reasons = "\n".join(f"  {', '.join(cells)}: {reason}" for reason, cells in by_reason.items())
    names = " ".join(f"'{cell}'" for cell in failed)
    return (
        f"{context.asset_key.to_user_string()}: {len(failed)} of {len(failed) + made} cells "
        f"failed; the others are finished and recorded.\n{reasons}\n"
        f'To leave them out:  make demo STUDY={study} WITHOUT="{names}"'
    )
