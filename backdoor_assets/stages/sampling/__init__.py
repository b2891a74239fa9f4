"""Sample answers from the base and from every checkpoint of a cell, with either of two engines:
`generate` (transformers, one cell at a time) and `row` (vLLM, all cells of a run together)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backdoor_assets.records import Progress, no_progress
from backdoor_assets.stages.specs import SamplingSpec


def sample_cell(
    spec: SamplingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Sample a cell with transformers: `generate.sample_cell`."""
    from backdoor_assets.stages.sampling import generate

    return generate.sample_cell(spec, folder, progress)
