"""Runs of a study's assets in this process, through the same definitions and instance as the UI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from backdoor_assets.graph.study import Step
from backdoor_assets.records import BadInput

QUIET = {"loggers": {"progress": {}}}
_OWN_CLASS = re.compile(r"^backdoor_assets(\.\w+)+: ")
"""What Dagster puts before the message of an error of this package."""
# Dagster's names of the tags that limit a run to a range of partitions.
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


class Runner:
    """Materializes steps of a study, and keeps what failed on the way."""

    def __init__(
        self, definitions: dg.Definitions, instance: dg.DagsterInstance, study: str
    ) -> None:
        self.definitions, self.instance, self.study = definitions, instance, study
        self.failures: dict[str, str] = {}
        """Why a cell or an optional step failed, in the words of its step."""

    def run(self, step: Step) -> set[str]:
        """Materialize a step and return the cells that failed.

        A cell that fails does not stop the others: what follows is made for the rest. Raises
        BadInput when a step without cells fails, or all cells of a step do.
        """
        graph = self.definitions.resolve_asset_graph()
        keys = [dg.AssetKey([self.study, name]) for name in step.assets]
        keys = [key for key in keys if key in graph.get_all_asset_keys()]
        if not keys or step.cells == []:
            return set()
        print(f"== {step.title}", flush=True)
        if step.cells is None:
            result = self._execute(keys, {})
            if not result.success and not step.optional:
                raise BadInput(_failure(result))
            if not result.success:
                self.failures[step.title] = _failure(result)
            return set()
        partitions = next(graph.get(key).partitions_def for key in keys)
        assert partitions is not None
        failed: set[str] = set()
        waiting = boxes(step.cells, partitions)
        while waiting:
            box = waiting.pop(0)
            result = self._execute(keys, {RANGE_START: box[0], RANGE_END: box[-1]})
            if result.success:
                continue
            bad = self._failed_cells(result, box)
            failed |= bad
            self.failures |= dict.fromkeys(sorted(bad), _failure(result))
            if failed.issuperset(step.cells):
                raise BadInput(_failure(result))
            waiting = boxes([cell for cell in box if cell not in bad], partitions) + waiting
        return failed

    def _execute(
        self, keys: Sequence[dg.AssetKey], tags: dict[str, str]
    ) -> dg.ExecuteInProcessResult:
        result = self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=keys,
            tags=tags,
            run_config=QUIET,
            raise_on_error=False,
        )
        if any(_is_interrupt(event) for event in result.all_events):
            raise BadInput(
                "Interrupted. What is finished is kept: run the same command again to go on."
            )
        return result

    def _failed_cells(self, result: dg.ExecuteInProcessResult, box: Sequence[str]) -> set[str]:
        """The cells of a failed run for which a step that failed made nothing: all of them when it
        failed before any."""
        steps = [event.step_key for event in result.all_events if event.is_step_failure]
        made: dict[str, set[str]] = {step: set() for step in steps if step}
        # The result lacks what a step recorded before it failed; the instance has it.
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        for entry in self.instance.all_logs(result.run_id, of_type=kind):
            event = entry.get_dagster_event()
            if event.step_key in made and event.partition:
                made[event.step_key].add(str(event.partition))
        bad = {cell for cell in box for cells in made.values() if cell not in cells}
        return bad or set(box)


def boxes(cells: Iterable[str], partitions: dg.PartitionsDefinition) -> list[list[str]]:
    """Split cells into as few runs as a range of partitions allows.

    A range of one dimension is a stretch of its keys; of two dimensions it is a box, from the
    corner of its first cell to the corner of its last.
    """
    if not isinstance(partitions, dg.MultiPartitionsDefinition):
        order = list(partitions.get_partition_keys())
        at = _places(order)
        return [[order[i] for i in run] for run in _stretches(sorted(at[cell] for cell in cells))]
    rows, columns = (
        list(dimension.partitions_def.get_partition_keys())
        for dimension in partitions.partitions_defs
    )
    by_row: dict[int, list[int]] = {}
    row_at, column_at = _places(rows), _places(columns)
    for cell in cells:
        row, column = cell.split("|")
        by_row.setdefault(row_at[row], []).append(column_at[column])
    found: list[tuple[list[int], list[int]]] = []
    for row in sorted(by_row):
        for run in _stretches(sorted(by_row[row])):
            grown = next((box for box in found if box[0][-1] == row - 1 and box[1] == run), None)
            if grown:
                grown[0].append(row)
            else:
                found.append(([row], run))
    return [[f"{rows[r]}|{columns[c]}" for r in box_rows for c in run] for box_rows, run in found]


def _places(keys: Sequence[str]) -> dict[str, int]:
    return {key: place for place, key in enumerate(keys)}


def _stretches(numbers: Sequence[int]) -> list[list[int]]:
    """Runs of consecutive numbers."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def _is_interrupt(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error if event.is_step_failure else None
    return bool(error) and error.cls_name == dg.DagsterExecutionInterruptedError.__name__


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """What failed, in the words of the step itself."""
    lines: list[str] = []
    for event in result.all_events:
        if event.is_step_failure:
            data: Any = event.step_failure_data
            description = data.user_failure_data.description if data.user_failure_data else None
            error = data.error.cause or data.error if data.error else None
            message = _OWN_CLASS.sub("", error.message.strip()) if error else event.step_key
            lines.append(description or message or "")
    for check in result.get_asset_check_evaluations():
        if not check.passed:
            lines.append(
                f"check {check.check_name} of {check.asset_key.to_user_string()} failed: "
                f"{check.description}"
            )
    return "\n".join(lines) or f"run {result.run_id} failed; `make ui` shows its log"
