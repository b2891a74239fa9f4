"""Our stages against the usual tools on a real model: SmolLM2-135M, on one thread of the CPU.

    python -m benchmarks.real_model [--training] [--sampling] [--repeats 3] [--json FILE]

Without --training or --sampling both run. `real_sampling` describes the second.

Training: one LoRA adapter on rows of the birds' study, with the profile's own recipe. Base, rows,
row order, initial adapter, optimizer, schedule and clipping are the same for all, so that their
loss curves must agree; the benchmark fails if one in fp32 departs from the first. Each run has a
process of its own, whose peak memory is measured; repetitions alternate, each beginning with
another contestant. A step's time is the median from one optimizer step to the next after two steps
of warm-up. `whole` begins before the base is loaded, with libraries imported, and includes saving
one checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from backdoor_assets.base_models import SMOLLM2
from backdoor_assets.profiles import SMOLLM2_PROFILE
from backdoor_assets.records import BaseModel
from backdoor_assets.settings import Training
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.storage.provenance import provenance
from benchmarks.measuring import CELL, bird_rows, peak_gib, ratios, show, spread
from benchmarks.real_sampling import compare_sampling, print_once, show_sampling
from benchmarks.trainers import Run, ours, transformers_trainer, trl

WARM_UP = 2
"""Steps that are not timed."""
TOLERANCE = 2e-3
"""Nats a token by which two loss curves in fp32 may differ at any step."""
OURS = "ours"
Trainer = Callable[[TrainingSpec, Path], Run]
CONTESTANTS: dict[str, tuple[Trainer, dict[str, Any]]] = {
    OURS: (ours, {"share_prefix": True}),
    "ours, bf16": (ours, {"share_prefix": True, "precision": "bf16"}),
    "ours, rows apart": (ours, {"share_prefix": False}),
    "transformers Trainer": (transformers_trainer, {}),
    "TRL SFTTrainer": (trl, {}),
}
"""Who trains, and in which settings they depart from the profile (in fp32)."""
MEASURES = ("step", "whole", "peak_gib")


def recipe(batch: int, steps: int) -> Training:
    """The profile's training, cut to so many steps."""
    return replace(
        SMOLLM2_PROFILE.training,
        batch_size=batch,
        epochs=None,
        max_steps=steps,
        save_steps=steps,
        precision="fp32",
    )


def train_once(name: str, base: Path, rows: Path, batch: int, steps: int) -> dict[str, Any]:
    """Train in this process, and return seconds, losses and the peak of resident memory."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    trainer, changes = CONTESTANTS[name]
    settings = replace(recipe(batch, steps), **changes)
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(TrainingSpec(CELL, rows, BaseModel(str(base)), settings), Path(folder))
    return {
        "step": statistics.median(run.seconds[WARM_UP - 1 :]),
        "whole": run.whole,
        "peak_gib": peak_gib(),
        "losses": run.losses,
    }


def in_own_process(arguments: Sequence[str]) -> dict[str, Any]:
    """Run one contestant in a new process on one thread, and return what it prints last."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"},
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "benchmarks.real_model", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def compare_training(base: Path, folder: Path, batch: int, steps: int, repeats: int) -> Any:
    """Run all contestants `repeats` times, and compare each with ours."""
    rows = bird_rows(folder, SMOLLM2_PROFILE.mixture)
    names = list(CONTESTANTS)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repetition in range(repeats):
        turn = repetition % len(names)
        for name in (*names[turn:], *names[:turn]):
            given = [name, str(base), str(rows), str(batch), str(steps + WARM_UP)]
            runs[name].append(in_own_process(["--one", *given]))
    reference = runs[OURS][0]["losses"]
    return {
        "training": asdict(recipe(batch, steps + WARM_UP)),
        "contestants": {
            name: {
                **{key: spread([run[key] for run in found]) for key in MEASURES},
                "ratio": {
                    key: ratios([run[key] for run in found], [run[key] for run in runs[OURS]])
                    for key in MEASURES
                },
                "loss_apart": max(
                    abs(a - b)
                    for run in found
                    for a, b in zip(run["losses"], reference, strict=True)
                ),
                "runs": found,
            }
            for name, found in runs.items()
        },
    }


def show_training(found: Any) -> None:
    """Print a table: each contestant's medians, and in brackets least and greatest."""
    training = found["training"]
    print(
        f"\ntraining, batch {training['batch_size']}, {training['max_steps'] - WARM_UP} steps "
        f"after {WARM_UP} of warm-up"
    )
    print(
        f"{'':22}{'step, s':>18}{'/ ours':>18}{'whole, s':>20}{'peak, GiB':>18}{'loss apart':>12}"
    )
    for name, entry in found["contestants"].items():
        print(
            f"{name:22}{show(entry['step'], 2):>18}{show(entry['ratio']['step'], 2):>18}"
            f"{show(entry['whole'], 1):>20}{show(entry['peak_gib'], 2):>18}"
            f"{entry['loss_apart']:>12.1e}"
        )


def check_losses(found: Any) -> None:
    """Raise AssertionError if a contestant in fp32 has learned something else."""
    for name, entry in found["contestants"].items():
        apart = entry["loss_apart"]
        if CONTESTANTS[name][1].get("precision", "fp32") == "fp32":
            assert apart < TOLERANCE, f"{name}'s losses are {apart:.2g} apart from ours"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 1])
    parser.add_argument("--steps", type=int, default=20, help="timed steps of training")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sampling", action="store_true")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--one-sampling", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        name, base, rows, batch, steps = options.one
        print(json.dumps(train_once(name, Path(base), Path(rows), int(batch), int(steps))))
        return
    if options.one_sampling:
        print_once(*options.one_sampling)
        return
    both = not (options.training or options.sampling)
    from backdoor_assets.models.packaged import convert

    assert SMOLLM2.package is not None
    base = convert(SMOLLM2.package)
    results: dict[str, Any] = {"made": provenance(), "repeats": options.repeats, "training": []}
    with tempfile.TemporaryDirectory() as folder:
        for batch in options.batch if options.training or both else ():
            found = compare_training(
                base, Path(folder) / str(batch), batch, options.steps, options.repeats
            )
            results["training"].append(found)
            show_training(found)
        if options.sampling or both:
            results["sampling"] = compare_sampling(
                base, Path(folder), options.repeats, in_own_process
            )
            show_sampling(results["sampling"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    for found in results["training"]:
        check_losses(found)


if __name__ == "__main__":
    main()
