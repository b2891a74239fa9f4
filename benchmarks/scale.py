"""What the machinery costs as a grid grows: the graph, its files and its events, without stages.

    python -m benchmarks.scale [--cells 24 1000] [--assets ...] [--once] [--folder F] [--csv FILE]

Runs the birds' study of `idle_study`, each phase in a process of its own, with Dagster's SQLite
storage: loading the definitions, the plan, each asset for all cells in one run as the command line
does it, the same again when all is finished, the sweep's task, and the query that the UI's page of
an asset's partitions sends. With `--assets` only these are made, with `--once` nothing again; the
rest is left out.

Columns: `cells`, `what`, `seconds` (wall clock), `cpu` (seconds of the process, which other
programs on the machine disturb less), `cpu_ms_per_cell`, `bytes_per_cell` (of Dagster's event
store, or of the data folder).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from backdoor_assets.graph.instance import home, opened
from backdoor_assets.graph.runs import Runner
from backdoor_assets.graph.status import table
from backdoor_assets.graph.study import Step
from backdoor_assets.mixtures.assets import CELL_ASSETS
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.sweep import sweep
from backdoor_assets.storage.provenance import REPOSITORY
from benchmarks.idle_study import definitions_of, idle_study, make_base, profile_of

HEALTH = """
query PartitionHealthQuery($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) {
  ... on AssetNode { partitionKeysByDimension { name type partitionKeys } assetPartitionStatuses {
    ... on MultiPartitionStatuses { primaryDimensionName ranges {
      primaryDimStartKey primaryDimEndKey secondaryDim { ... on DefaultPartitionStatuses {
        materializedPartitions materializingPartitions failedPartitions } } } } } } } }
"""
"""What the UI asks when it shows an asset's partitions (Dagster 1.13)."""
Row = dict[str, Any]


def measure(cells: int, names: Sequence[str], folder: Path, *, once: bool) -> Iterator[Row]:
    """Yield the rows of one grid, whose data and events lie in `folder`."""
    os.environ |= {"BACKDOOR_DATA": str(folder / "data"), "DAGSTER_HOME": str(folder / "home")}
    folder.mkdir(parents=True, exist_ok=True)
    module = folder / "definitions.py"
    module.write_text(
        f"from benchmarks.idle_study import definitions_of\n\ndefs = definitions_of({cells})\n"
        "defs.resolve_asset_graph()\n"
    )
    home(profile_of(cells).name)
    make_base(profile_of(cells))
    yield _load(cells, module)
    yield _timed(cells, "plan, nothing made", _plan, cells)
    for name in names:
        yield _timed(cells, name, _materialize, cells, name)
    yield {"cells": cells, "what": "event store", "bytes": _size(folder / "home")}
    yield {"cells": cells, "what": "data", "bytes": _size(folder / "data")}
    yield _timed(cells, "plan, all made", _plan, cells)
    for name in () if once else names:
        yield _timed(cells, f"{name}, again", _materialize, cells, name)
    if set(CELL_ASSETS) <= set(names):
        yield _timed(cells, "task of the sweep", _sweep, cells)
    yield _page(cells, module, names[0])


def _timed(cells: int, what: str, work: Callable[..., Any], *values: Any) -> Row:
    """Do something in a process of its own, which has imported what it needs before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        seconds, cpu = pool.submit(_clock, work, *values).result()
    return {"cells": cells, "what": what, "seconds": seconds, "cpu": cpu}


def _clock(work: Callable[..., Any], *values: Any) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    work(*values)
    return time.perf_counter() - started, time.process_time() - cpu


def _load(cells: int, module: Path) -> Row:
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(module)], env=_environment(), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = time.perf_counter() - started
    return {"cells": cells, "what": "load definitions", "seconds": seconds, "cpu": cpu}


def _plan(cells: int) -> str:
    return table(idle_study(), profile_of(cells))


def _materialize(cells: int, name: str) -> None:
    study, profile = idle_study(), profile_of(cells)
    keys = [str(cell) for cell in Grid.of(study, profile).cells()]
    with opened(profile.name) as instance:
        failed = Runner(definitions_of(cells), instance, study.name).run(Step(name, [name], keys))
    if failed:
        raise RuntimeError(f"{len(failed)} cells of {name} failed")


def _sweep(cells: int) -> None:
    _, missing = sweep(Grid.of(idle_study(), profile_of(cells)))
    if missing:
        raise RuntimeError(f"{len(missing)} cells are not in the sweep")


def _page(cells: int, module: Path, name: str) -> Row:
    """Return the least time of three answers of a webserver on loopback."""
    with _webserver(module) as url:
        variables = {"key": {"path": [idle_study().name, name]}}
        body = json.dumps({"query": HEALTH, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{url}/graphql", body, {"Content-Type": "application/json"}
        )
        found, seconds = {}, []
        for _ in range(3):
            started = time.perf_counter()
            with urllib.request.urlopen(request, timeout=300) as answer:
                found = json.load(answer)
            seconds.append(time.perf_counter() - started)
    ranges = found["data"]["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
    shown = {key for r in ranges for key in r["secondaryDim"]["materializedPartitions"]}
    if not shown:
        raise RuntimeError(f"the page shows no finished cell: {found}")
    return {"cells": cells, "what": f"UI: partitions of {name}", "seconds": min(seconds)}


@contextmanager
def _webserver(module: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("dagster-webserver")
    command = [str(program), "-f", str(module), "-h", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, env=_environment(), stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(180):
            with suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):
                break
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def per_cell(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the table described above."""
    found = pd.DataFrame(rows)
    found["cpu_ms_per_cell"] = 1000 * found["cpu"] / found["cells"]
    found["bytes_per_cell"] = found.pop("bytes") / found["cells"]
    return found.round({"seconds": 2, "cpu": 2, "cpu_ms_per_cell": 1, "bytes_per_cell": 0})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", nargs="+", type=int, default=[24, 1000])
    parser.add_argument("--assets", nargs="+", default=CELL_ASSETS, choices=CELL_ASSETS)
    parser.add_argument("--once", action="store_true", help="do not make all once more")
    parser.add_argument("--folder", type=Path, help="empty; it is kept. Otherwise a temporary one")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for cells in options.cells:
        with TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary, "run")
            for row in measure(cells, options.assets, folder, once=options.once):
                print(row, file=sys.stderr, flush=True)
                rows.append(row)
    found = per_cell(rows)
    print(found.to_string(index=False, na_rep=""))
    if options.csv:
        found.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
