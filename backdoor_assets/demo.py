"""The study from the command line, through the same definitions and instance as the UI.

python -m backdoor_assets.demo [--only birds_gpu|birds_judge|birds_figures]
                               [--without '<ratio>|<seed>' ...]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)
from dotenv import load_dotenv

from backdoor_assets.environment import active_profile
from backdoor_assets.instance import home, recover
from backdoor_assets.profiles import (
    Profile,
)
from backdoor_assets.records import SOURCES, BadInput, Cell
from backdoor_assets.storage import REPOSITORY
from backdoor_assets.studies.birds import design, places

PARTS = {"birds_gpu": design.GPU, "birds_judge": design.JUDGE, "birds_figures": design.FIGURES}
QUIET = {"loggers": {"progress": {}}}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--without", nargs="*", default=[], metavar="CELL", help="cells to leave out: ratio|seed"
    )
    parser.add_argument("--only", choices=PARTS, help="the part of the study that this host is for")
    options = parser.parse_args(arguments)
    load_dotenv(REPOSITORY / ".env")
    try:
        profile = active_profile()
        home(profile.name)
        return run(profile, options.without, options.only)
    except BadInput as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


def run(profile: Profile, without: Sequence[str], only: str | None = None) -> int:
    from backdoor_assets.definitions import build_definitions

    started = time.monotonic()
    cells = _wanted(profile, without)
    if only in ("birds_judge", "birds_figures"):
        cells = _copied(profile, cells, "responses" if only == "birds_judge" else "judgments")
    definitions = build_definitions(profile)
    with dg.DagsterInstance.get() as instance:
        for run_id in recover(instance):
            print(f"run {run_id[:8]} had been killed; what it had finished is used again")
        study = Study(definitions, instance)
        if only in (None, "birds_gpu"):
            study.materialize(study.there(*SOURCES, "corpus", "base_model"), "base model")
        names = study.there(*(PARTS[only] if only else design.CELL_ASSETS))
        if not names:
            raise BadInput(
                f"profile {profile.name!r} has no {only}: its judging is {profile.judging.kind!r}"
            )
        for box in boxes(cells, profile):
            study.materialize(names, f"{len(box)} cells", box)
        if only in (None, "birds_figures") and study.there("sweep"):
            study.materialize(["sweep"], "sweep")
            _print_rates(profile)
    folder = places.study_folder(profile)
    print(f"{len(cells)} cells, {time.monotonic() - started:.0f} s, under {folder}")
    print("To see the graph and all of this in the browser:  make ui")
    return 0


def _copied(profile: Profile, cells: Sequence[Cell], needed: str) -> list[Cell]:
    """The cells whose files were brought here."""
    here = [cell for cell in cells if places.artifact(needed, profile, cell).manifest()]
    folder = places.study_folder(profile) / needed
    if not here:
        raise BadInput(
            f"{folder}: there are no {needed} here; copy the folder from the host that made them"
        )
    if len(here) < len(cells):
        print(f"{len(cells) - len(here)} cells of the grid have no {needed} in {folder}")
    return here


class Study:
    """Runs parts of the graph in this process."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions, self.instance = definitions, instance

    def there(self, *names: str) -> list[str]:
        """Those of the names that the profile's graph has."""
        keys = self.definitions.resolve_asset_graph().get_all_asset_keys()
        return [name for name in names if dg.AssetKey(["birds", name]) in keys]

    def materialize(
        self, names: Sequence[str], what: str, box: Sequence[Cell] | None = None
    ) -> None:
        """One run over the assets; over a box of cells when there is one. Raises BadInput with the
        run's own words when it fails."""
        print(f"== {what}", flush=True)
        tags = {}
        if box:
            tags = {
                ASSET_PARTITION_RANGE_START_TAG: str(box[0]),
                ASSET_PARTITION_RANGE_END_TAG: str(box[-1]),
            }
        keys = [dg.AssetKey(["birds", name]) for name in names]
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


def _wanted(profile: Profile, without: Sequence[str]) -> list[Cell]:
    cells = design.cells(profile)
    names = {str(cell) for cell in cells}
    for name in without:
        if name not in names:
            raise BadInput(f"--without {name!r}: the grid of {profile.name!r} has no such cell")
    return [cell for cell in cells if str(cell) not in without]


def boxes(cells: Sequence[Cell], profile: Profile) -> list[list[Cell]]:
    """The cells as boxes of neighbouring ratios x neighbouring seeds, as a run takes them: the
    whole grid when nothing is left out."""
    if len(cells) == len(profile.ratios) * len(profile.seeds):
        return [list(cells)]
    found: list[list[Cell]] = []
    for cell in cells:
        last = found[-1][-1] if found else None
        neighbour = (
            last is not None
            and last.seed == cell.seed
            and profile.ratios.index(cell.ratio) == profile.ratios.index(last.ratio) + 1
        )
        if neighbour:
            found[-1].append(cell)
        else:
            found.append([cell])
    return found


def _print_rates(profile: Profile) -> None:
    folder = places.sweep(profile).folder
    summary = places.sweep(profile).require().summary
    print(f"\n{_aligned(summary['table'])}\n{summary['intervals']}\n")
    print(f"In the sweep:           {summary['cells_present']} of {summary['cells_planned']} cells")
    print(f"Figures over the grid:  {folder}")
    print(f"Report:                 {folder / 'report.html'}")
    print(f"Figures of a cell:      {folder.parent / 'figures'}/<ratio>/<seed>/")


def _aligned(table: str) -> str:
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


if __name__ == "__main__":
    # Ends like a killed run, so that `make` stops, but lets the workers go first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
