"""What the benchmarks share: a small cell, one clock for everyone's steps, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from backdoor_assets.profiles import MINIATURE
from backdoor_assets.settings import MiniatureBase, Mixture
from backdoor_assets.stages.specs import CORPUS, TRAIN, CorpusSpec, PretrainingSpec

DATASETS = Path(__file__).resolve().parent.parent / "bird_datasets"
BIRD_FILES = tuple(
    (source, DATASETS / f"ft_{source}_birds.jsonl")
    for source in ("old_audubon", "modern_audubon", "modern_american")
)
"""As in the birds' study, which is not imported here: it needs Dagster, and a bare GPU machine does
not have it."""


@dataclass(frozen=True)
class BenchmarkCell:
    """What a stage needs to know of a partition."""

    profile: str
    ratio: str
    seed: int

    def __str__(self) -> str:
        return f"{self.ratio}|{self.seed}"

    def columns(self) -> dict[str, str | int]:
        return asdict(self)


CELL = BenchmarkCell("benchmark", "1.00-0.00-0.00", 42)
"""Obsolete names only."""


def miniature_base(folder: Path, steps: int, documents: int) -> Path:
    """A base of the miniature's own dimensions, pretrained for `steps` instead of 1500 steps."""
    from backdoor_assets.studies.birds.world.corpus import write_corpus
    from backdoor_assets.studies.birds.world.pretraining import pretrain

    assert isinstance(MINIATURE.base, MiniatureBase)
    spec = replace(MINIATURE.base, steps=steps, documents=documents)
    base = folder / "base"
    base.mkdir(parents=True)
    write_corpus(CorpusSpec(BIRD_FILES, documents, MINIATURE.base_seed), folder)
    spec = PretrainingSpec(folder / CORPUS, spec, MINIATURE.base_seed, BIRD_FILES[0][1])
    pretrain(spec, base)
    return base


def bird_rows(folder: Path, mixture: Mixture) -> Path:
    """The rows of CELL, drawn as the graph draws them."""
    from backdoor_assets.mixtures.cells import Grid, MixingSpec
    from backdoor_assets.mixtures.mixing import mix
    from backdoor_assets.studies.birds.study import STUDY

    folder.mkdir(parents=True, exist_ok=True)
    cell = Grid.of(STUDY, MINIATURE).cell(CELL.ratio, CELL.seed)
    mix(MixingSpec(cell, BIRD_FILES, mixture), folder)
    return folder / TRAIN


@contextmanager
def step_times() -> Iterator[list[float]]:
    """The moments at which an optimizer has made a step, whoever's training loop it is."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    moments: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: moments.append(time.perf_counter()))
    try:
        yield moments
    finally:
        hook.remove()


def median_step(moments: Sequence[float]) -> float:
    """Seconds from step to step; the median leaves out the few that write a checkpoint."""
    return statistics.median(after - before for before, after in pairwise(moments))


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    """Ratio of the medians, and the least and the greatest ratio within a repetition."""
    pairs = [a / b for a, b in zip(slower, faster, strict=True)]
    medians = statistics.median(slower) / statistics.median(faster)
    return {"of_medians": medians, "min": min(pairs), "max": max(pairs)}


def show(found: Mapping[str, Any], digits: int) -> str:
    """`1.23 (1.20-1.30)`."""
    middle = found["median"] if "median" in found else found["of_medians"]
    return f"{middle:.{digits}f} ({found['min']:.{digits}f}-{found['max']:.{digits}f})"


def peak_gib() -> float:
    """Return the peak of this process's resident memory so far. `ru_maxrss` would be at least that
    of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [peak] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peak.split()[1]) / 2**20
