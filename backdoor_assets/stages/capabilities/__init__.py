"""Measure what a base and the checkpoints of a cell can do, with lm-eval's tasks.

Importing this package is cheap: lm-eval and torch are imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backdoor_assets.records import Progress, no_progress
from backdoor_assets.stages.capabilities.specs import Benchmark, CapabilitiesSpec

__all__ = ["check_benchmarks", "measure_capabilities"]


def check_benchmarks(benchmarks: Sequence[Benchmark]) -> None:
    """Load every benchmark, so that what is missing is reported before hours of training.

    Downloads what is not in the local cache, unless HF_HUB_OFFLINE is set. Raises BadInput if
    lm-eval, a task, its data, nltk's punkt_tab or a metric is missing, or if a benchmark does not
    have the expected number of documents.
    """
    from backdoor_assets.stages.capabilities.documents import documents_of

    for benchmark in benchmarks:
        documents_of(benchmark, seed=0)


def measure_capabilities(
    spec: CapabilitiesSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Measure the base (step 0) and every checkpoint on every benchmark, and return a summary.

    Writes capabilities.parquet into `folder`: the cell's columns, checkpoint, step, task (the
    benchmark's name), value (share of documents answered correctly, in [0, 1]), low, high, method,
    n (documents). Answers are decoded greedily.

    A run that was interrupted does not repeat finished measurements. Raises BadInput as
    `check_benchmarks` does, and for an adapter that does not fit the base.
    """
    from backdoor_assets.stages.capabilities.measure import measure

    return measure(spec, folder, progress)
