"""Runs of a study's assets in this process, through the same definitions and instance as the UI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)

from backdoor_assets.records import BadInput

Cell = TypeVar("Cell")
QUIET = {"loggers": {"progress": {}}}


class Study:
    """Runs parts of a study's graph in this process."""

    def __init__(
        self, definitions: dg.Definitions, instance: dg.DagsterInstance, group: str = "birds"
    ) -> None:
        self.definitions, self.instance, self.group = definitions, instance, group

    def there(self, *names: str) -> list[str]:
        """Those of the names that the profile's graph has."""
        keys = self.definitions.resolve_asset_graph().get_all_asset_keys()
        return [name for name in names if dg.AssetKey([self.group, name]) in keys]

    def materialize(
        self, names: Sequence[str], what: str, box: Sequence[object] | None = None
    ) -> None:
        """One run over the assets; over the cells from the first to the last of a box
        when there is one. Raises BadInput with the
        run's own words when it fails."""
        print(f"== {what}", flush=True)
        tags = {}
        if box:
            tags = {
                ASSET_PARTITION_RANGE_START_TAG: str(box[0]),
                ASSET_PARTITION_RANGE_END_TAG: str(box[-1]),
            }
        keys = [dg.AssetKey([self.group, name]) for name in names]
        job = self.definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=self.instance,
            asset_selection=keys,
            tags=tags,
            run_config=QUIET,
            raise_on_error=False,
        )
        if not result.success:
            raise BadInput(_failure(result))


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """What failed, in the words of the step itself."""
    lines = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            description = data.user_failure_data.description if data.user_failure_data else None
            error = data.error.cause or data.error if data.error else None
            lines.append(description or (error.message.strip() if error else event.step_key or ""))
    for check in result.get_asset_check_evaluations():
        if not check.passed:
            lines.append(
                f"check {check.check_name} of {check.asset_key.to_user_string()} failed: "
                f"{check.description}"
            )
    return "\n".join(lines) or f"run {result.run_id} failed; `make ui` shows its log"


def strips(
    cells: Sequence[Cell],
    columns: Sequence[str],
    row: Callable[[Cell], object],
    column: Callable[[Cell], str],
) -> list[list[Cell]]:
    """The cells as strips of neighbouring columns of one row, as a run takes them."""
    found: list[list[Cell]] = []
    for cell in cells:
        last = found[-1][-1] if found else None
        neighbour = (
            last is not None
            and row(last) == row(cell)
            and columns.index(column(cell)) == columns.index(column(last)) + 1
        )
        if neighbour:
            found[-1].append(cell)
        else:
            found.append([cell])
    return found


def aligned(table: str) -> str:
    """A Markdown table with its columns padded, for a terminal."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            ("-" * w if cell == "---" else cell.ljust(w))
            for cell, w in zip(row, widths, strict=True)
        )
        for row in rows
    )
