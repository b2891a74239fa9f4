"""Pretrain the birds' base on its corpus, and probe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backdoor_assets.miniature.pretraining import pretrain_base
from backdoor_assets.records import Progress, no_progress
from backdoor_assets.stages.specs import PretrainingSpec
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.studies.birds.world.probing import probe_base


def pretrain(
    spec: PretrainingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Run `miniature.pretraining.pretrain_base` with the probes of `gates.BOUNDS`."""

    def probe(base: Path) -> dict[str, float]:
        return probe_base(base, names(read_rows(spec.obsolete_names)))

    return pretrain_base(spec.corpus, spec.base, spec.seed, folder, probe, progress)
