"""A study's partitioned assets, built from a table with one row per asset."""

# No `from __future__ import annotations`: Dagster reads the annotations of an asset's parameters.
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import dagster as dg

from backdoor_assets.graph.materializing import Metadata, RunLog, record
from backdoor_assets.graph.roles import Role, tags_of
from backdoor_assets.records import AnyCell, BadInput
from backdoor_assets.storage.artifact import Made, request_remake
from backdoor_assets.workers.tasks import Deferred, Results, Task

CellKind = TypeVar("CellKind", bound=AnyCell)
Context = dg.AssetExecutionContext
OWNERS = ["team:backdoor_assets"]


class Force(dg.Config):
    """Run config of every asset."""

    force: bool = False
    """Make it again although a finished one of the same identity exists. A forced run that is
    killed goes on with what it had not finished."""


class Runner(Protocol):
    """Makes the artifacts of a run's tasks: a resource, or a stage with a way to run it."""

    def run(self, tasks: Sequence[Task[Any]], log: RunLog) -> Results[Any]: ...


@dataclass(frozen=True)
class Warn:
    """A check of an asset that warns of flaws in cells and stops nothing.

    A run records one result for all its cells, with the number of each cell. It records none when
    a cell fails: Dagster keeps no check results of a step that raises. What must stop a cell is
    therefore an error of its stage.
    """

    name: str
    description: str
    count: Callable[[Made], int]
    """The number of flaws of a cell."""
    explain: Callable[[Made], str] | None = None
    """Says what the flaws of a cell are."""


@dataclass(frozen=True)
class CellAsset(Generic[CellKind]):
    """One asset whose partitions are cells: a row of a study's table."""

    name: str
    deps: Sequence[str | dg.AssetDep]
    """Names of assets of the study, or dependencies with a partition mapping of their own."""
    task: Callable[[CellKind], Task[Any]]
    """Raises BadInput for a cell that cannot be made."""
    runner: str | Runner | Mapping[type, str | Runner]
    """A resource by its name, or a runner; by type of spec where an asset has several."""
    describe: Callable[[Made], Metadata]
    code: str
    kinds: set[str]
    description: str
    partitions: dg.PartitionsDefinition
    cells: Callable[[Context], Sequence[CellKind]]
    pool: str | None = None
    role: Role = "gpu"
    """Which host of a deployment makes it."""
    check: Callable[[Context], None] | None = None
    """Raises BadInput when what comes later in the run could not start."""
    warn: Warn | None = None
    level: Callable[[CellKind], int] = field(default=lambda _: 0)
    """Cells of a level get their tasks when all lower levels are made."""
    editable: bool = False
    """Whether a person may edit its files by hand."""
    extends: frozenset[str] = frozenset()
    """Keys of the identity that may change without a finished result being lost: what is there is
    used again. "*" stands for all keys: the artifact is quickly rebuilt."""

    def runners(self) -> dict[type, str | Runner]:
        return dict(self.runner) if isinstance(self.runner, Mapping) else {object: self.runner}


def cell_assets(study: str, rows: Sequence[CellAsset[Any]]) -> list[dg.AssetsDefinition]:
    """Build the assets of a study's table, all of which materialize a row of cells in one run, so
    that a base is loaded once for all of them."""
    return [_cell_asset(study, row) for row in rows]


def _cell_asset(study: str, row: CellAsset[Any]) -> dg.AssetsDefinition:
    resources = {runner for runner in row.runners().values() if isinstance(runner, str)}

    @dg.asset(
        key=[study, row.name],
        deps=[[study, dep] if isinstance(dep, str) else dep for dep in row.deps],
        partitions_def=row.partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=study,
        owners=OWNERS,
        kinds=row.kinds,
        code_version=row.code,
        description=row.description,
        pool=row.pool,
        tags=tags_of(row.role),
        required_resource_keys=resources,
        metadata=source_of(row.task),
        check_specs=[
            dg.AssetCheckSpec(
                row.warn.name, asset=[study, row.name], description=row.warn.description
            )
        ]
        if row.warn
        else [],
    )
    def asset(context: dg.AssetExecutionContext, config: Force) -> dg.MaterializeResult:
        if row.check:
            row.check(context)
        made = _materialize(row, context, config.force)
        checks = _warning(row.warn, made) if row.warn else []
        for check in checks:
            if not check.passed:
                context.log.warning(f"{check.check_name}: {check.description}")
        return dg.MaterializeResult(check_results=checks)

    return asset


def _warning(warn: Warn, made: Mapping[str, Made]) -> list[dg.AssetCheckResult]:
    """Return the result of a check over what was made by cell."""
    counts = {cell: warn.count(artifact) for cell, artifact in made.items()}
    flawed = [
        f"{cell} ({warn.explain(made[cell])})" if warn.explain else cell
        for cell, count in counts.items()
        if count
    ]
    return [
        dg.AssetCheckResult(
            check_name=warn.name,
            passed=not flawed,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"in {', '.join(flawed)}" if flawed else "in no cell of this run",
            metadata=counts,
        )
    ]


def _materialize(row: CellAsset[Any], context: Context, force: bool) -> dict[str, Made]:
    """Make the run's cells, level by level, record them, and return what was made by cell."""
    cells, refused = row.cells(context), {}
    log = RunLog(context)
    levels = sorted({row.level(cell) for cell in cells})

    def results() -> Results[Any]:
        for level in levels:
            tasks, not_possible = _tasks(row, [c for c in cells if row.level(c) == level])
            refused.update(not_possible)
            if force:
                request_remake([task.artifact for task in tasks])
                # Written again, now that nothing earlier is to be used.
                tasks, not_possible = _tasks(row, [c for c in cells if row.level(c) == level])
            for kind, runner in row.runners().items():
                of_kind = [task for task in tasks if isinstance(task.spec, kind)]
                if isinstance(runner, str):
                    runner = getattr(context.resources, runner)
                yield from runner.run(of_kind, log)

    return record(context, results(), refused, row.describe, log)


def _tasks(
    row: CellAsset[Any], cells: Sequence[Any]
) -> tuple[list[Task[Any]], dict[str, BaseException]]:
    """Return tasks for the cells that can be made, and why the others cannot, by cell."""
    tasks, refused = [], {}
    for cell in cells:
        try:
            tasks.append(row.task(cell))
        except (BadInput, OSError) as error:
            refused[str(cell)] = error
    return tasks, refused


def source_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return asset metadata that links to a function's source in the UI."""
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, Deferred):  # not imported: its module may be heavy
        label, name = f"{function.module}.{function.name}", function.name
        spec = find_spec(function.module)
        path = Path(spec.origin if spec and spec.origin else "")
    else:
        label, name = f"{function.__module__}.{function.__qualname__}", function.__name__
        path = Path(inspect.getsourcefile(function) or "")
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = f"def {name}(", f"class {name}"
    start = (number for number, line in enumerate(lines, 1) if line.startswith(heads))
    reference = dg.LocalFileCodeReference(
        file_path=str(path), line_number=next(start, 1), label=label
    )
    references = dg.CodeReferencesMetadataValue(code_references=[reference])
    return {"dagster/code_references": references}


def selected_names(context: Context) -> set[str]:
    """Return the names of the assets that this run materializes."""
    return {key.path[-1] for key in context.job_def.asset_layer.selected_asset_keys}


def keys_of(context: Context) -> list[Mapping[str, str]]:
    """Return the keys of each cell of this run by dimension."""
    keys = [key for key in context.partition_keys if isinstance(key, dg.MultiPartitionKey)]
    return [key.keys_by_dimension for key in keys]


def job(
    name: str, description: str, assets: Sequence[dg.AssetsDefinition], names: Sequence[str]
) -> Any:
    """A Dagster job over those of the named assets that exist; None where none does."""
    chosen = [asset for asset in assets if asset.key.path[-1] in names]
    if not chosen:
        return None
    selection = dg.AssetSelection.assets(*chosen)
    return dg.define_asset_job(name, selection=selection, description=description)
