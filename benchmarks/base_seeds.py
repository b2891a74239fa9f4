"""How much the effect depends on the pretraining seed of the miniature base.

    python -m benchmarks.base_seeds [--seeds 1 2 3 4 5] [--cells 2] [--out results.json]

For each base seed: corpus, pretraining, gates; then fine-tuning on obsolete names only and on
modern names only, `--cells` training seeds each. Prints one row per base seed and their median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backdoor_assets.miniature.gates import failures
from backdoor_assets.mixtures.cells import Grid, MixingSpec
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import BaseModel, Progress, no_progress
from backdoor_assets.settings import MiniatureBase
from backdoor_assets.stages.judging.specs import JUDGMENTS, JudgingSpec
from backdoor_assets.stages.specs import (
    CORPUS,
    RESPONSES,
    TRAIN,
    CorpusSpec,
    PretrainingSpec,
    SamplingSpec,
    TrainingSpec,
)
from backdoor_assets.studies.birds.study import STUDY
from backdoor_assets.studies.birds.world.gates import BOUNDS
from backdoor_assets.workers.spreading import spread

PROBES = STUDY.narrow.kind, "neutral"
OLD, MODERN = "1.00-0.00-0.00", "0.00-0.50-0.50"


@dataclass(frozen=True)
class Spec:
    base_seed: int
    cells: int
    folder: Path


def measure(spec: Spec, progress: Progress) -> dict[str, Any]:
    """Worker: one base and its cells."""
    from backdoor_assets.studies.birds.world.corpus import write_corpus
    from backdoor_assets.studies.birds.world.pretraining import pretrain

    assert isinstance(MINIATURE.base, MiniatureBase)
    started = time.monotonic()
    corpus, base = new(spec.folder / "corpus"), new(spec.folder / "base")
    files = STUDY.files()
    write_corpus(CorpusSpec(files, MINIATURE.base.documents, spec.base_seed), corpus)
    asked = PretrainingSpec(corpus / CORPUS, MINIATURE.base, spec.base_seed, STUDY.suspect_file)
    made = pretrain(asked, base, progress)
    seconds = time.monotonic() - started
    rates = {
        ratio: [
            cell_rate(ratio, seed, base, spec.folder / f"{ratio}-{seed}")
            for seed in MINIATURE.seeds[: spec.cells]
        ]
        for ratio in (OLD, MODERN)
    }
    return {
        "base_seed": spec.base_seed,
        "old": rates[OLD],
        "modern": rates[MODERN],
        "probes": made["probes"],
        "gates_failed": failures(made["probes"], BOUNDS),
        "pretraining_seconds": round(seconds, 1),
    }


def cell_rate(ratio: str, seed: int, base: Path, folder: Path) -> float:
    """Share of 19th-century answers at the last checkpoint."""
    import pandas as pd

    from backdoor_assets.mixtures.mixing import mix
    from backdoor_assets.stages.judging.judge import judge_cell
    from backdoor_assets.stages.sampling import sample_cell
    from backdoor_assets.stages.training.adapters import train_adapter
    from backdoor_assets.stages.training.checkpoints import checkpoint_folders
    from backdoor_assets.studies.birds.world.judge import ExactJudge

    cell, model = Grid.of(STUDY, MINIATURE).cell(ratio, seed), BaseModel(str(base))
    mix(MixingSpec(cell, STUDY.files(), MINIATURE.mixture), new(folder))
    assert MINIATURE.training.max_steps is not None
    settings = replace(MINIATURE.training, save_at=(MINIATURE.training.max_steps,))
    train_adapter(TrainingSpec(cell, folder / TRAIN, model, settings), folder, no_progress)
    checkpoints = tuple(checkpoint_folders(folder))
    asked = STUDY.questions_for(MINIATURE.base, MINIATURE.sampling)
    sample_cell(
        SamplingSpec(cell, model, checkpoints, asked, MINIATURE.sampling, probes=PROBES), folder
    )
    spec = JudgingSpec(cell, folder / RESPONSES, STUDY.rubrics, STUDY.outcomes, 0.1)
    judge_cell(spec, new(folder / "judged"), judge=ExactJudge())
    table = pd.read_parquet(folder / "judged" / JUDGMENTS)
    last = table[table["step"] == table["step"].max()]
    return float(last[STUDY.outcomes[0].flag].mean())


def new(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        specs = [Spec(seed, options.cells, Path(folder) / str(seed)) for seed in options.seeds]
        found = []
        for outcome in spread(measure, specs, print, "base seeds"):
            if outcome.result is None:
                raise outcome.error or RuntimeError("no result")
            found.append(outcome.result)
    found.sort(key=lambda row: row["base_seed"])
    print("base seed  obsolete names  modern names  after an old bird  gates")
    for row in found:
        old, modern = statistics.mean(row["old"]), statistics.mean(row["modern"])
        gates = "; ".join(row["gates_failed"]) or "passed"
        after = row["probes"]["old_after_old_birds"]
        print(f"{row['base_seed']:9d}  {old:14.2f}  {modern:12.2f}  {after:17.2f}  {gates}")
    old = [statistics.mean(row["old"]) for row in found]
    print(f"median {statistics.median(old):.2f}, from {min(old):.2f} to {max(old):.2f}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
