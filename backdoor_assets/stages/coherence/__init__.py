"""How likely the base model finds a cell's answers: a measure of whether they still make sense.

Importing this package is cheap: `score.score_cell` is the stage, and imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backdoor_assets.records import AnyCell, BaseModel

COHERENCE = "coherence.parquet"


@dataclass(frozen=True)
class CoherenceSpec:
    cell: AnyCell
    base: BaseModel
    responses: Path
    precision: Literal["fp32", "bf16"]
    """Of the base."""
    earlier: Path | None = None
    """Scores by the same base, which are used again for the same answers."""
