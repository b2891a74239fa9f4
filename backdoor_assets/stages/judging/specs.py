"""What judging is asked to do for a cell, whatever its study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdoor_assets.records import AnyCell, Rubric, RunJudge
from backdoor_assets.storage.hashing import digest

JUDGMENTS = "judgments.parquet"


@dataclass(frozen=True)
class Counted:
    """An option of a rubric that is counted: its share of the answers is a measure."""

    measure: str
    rubric: str
    """Column of the rubric, a choice."""
    option: str
    flag: str
    """Boolean column of judgments.parquet."""

    @property
    def predicted(self) -> str:
        """Column of a cheap judge's verdicts, 0 or 1, where the judge is asked about a part."""
        return f"{self.flag}_predicted"

    @property
    def power(self) -> str:
        return f"{self.flag}_power"

    @property
    def unexplained(self) -> str:
        return f"{self.flag}_unexplained"


@dataclass(frozen=True)
class Prediction:
    """A cheap judge that predicts the verdicts, so that the judge is asked about a part only."""

    open_judge: Callable[[], RunJudge]
    half_width: float
    """Of the 95 % interval of the headline's rate in each state, within seeds, at which no further
    verdicts are asked for."""


@dataclass(frozen=True)
class JudgingSpec:
    cell: AnyCell
    responses: Path
    rubrics: tuple[Rubric, ...]
    counted: tuple[Counted, ...]
    """The first is the headline: an answer without its verdict counts as not judged."""
    max_unreadable: float
    """Share of answers without a headline verdict above which the cell fails."""
    open_judge: Callable[[], RunJudge] | None = None
    """Opens the judge of all cells of a run; None where `judge_cell` is given one."""
    prediction: Prediction | None = None
    earlier: Path | None = None
    """Judgments by the same judge, whose verdicts on the same answers are used again."""
    earlier_columns: tuple[str, ...] = ()
    """Columns of rubrics that are as they were."""
    judge_id: str = ""
    """Identifies the judge and the wording of the rubrics."""
    kinds: tuple[str, ...] | None = None
    """Kinds of questions whose answers are judged (column `kind`); None: all."""
    steps: tuple[int, ...] | None = None
    """Steps whose answers are judged, beside the last; None: all."""
    by_question: bool = True
    """Whether `max_unreadable` holds for each question's answers at a checkpoint, or, where each
    question has one answer, for a checkpoint's."""


def judge_id(identity: Mapping[str, Any]) -> str:
    """Identify the judge and the rubrics of an identity of judgments, in 12 hex digits. Tables that
    were written before this column existed have the same id, from their manifest."""
    return digest([identity["judge"], identity["rubrics"]])[:12]
