"""Training, resuming and sampling at a size, measured against what the device could do at best.

    python -m benchmarks.gpu_check [--size qwen3-8b] [--work FOLDER] [--out results.json]

Made for a rented GPU: it needs torch, transformers, peft, pandas and pyarrow, no hub and no other
part of the project's dependencies. The base has the size's shape and random weights. It is written
once as safetensors (qwen3-8b: 16 GB; `--work /dev/shm/check` keeps it in memory) and goes through
the same stages as any other. Then come, with the training settings of the qwen3-8b profile:

- training on the obsolete bird names, at the batch sizes and steps of `--trainings`;
- the first of them again, cut after a checkpoint and resumed: are the adapters the same?
- answers of the base and of the last checkpoints, with transformers' `generate`.

`--size miniature` does the same on a CPU in half a minute. Exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from backdoor_assets.models.loading import load_base
from backdoor_assets.profiles import PROFILES, MiniatureBase, PretrainedBase, Training
from backdoor_assets.records import BaseModel, Question, Shape
from backdoor_assets.stages.training.checkpoints import checkpoint_folders
from backdoor_assets.storage.provenance import provenance
from backdoor_assets.studies.birds.world import WORLD
from benchmarks import gpu_phases as phases
from benchmarks.ceilings import Weights, measure_device, synchronize

PROFILE = PROFILES["qwen3-8b"]


def shape_of(size: str) -> Shape:
    if size == "miniature":
        small = MiniatureBase()
        heads = small.heads
        return Shape(
            small.layers, small.hidden, heads, heads, small.head_dim, small.feed_forward,
            small.vocabulary, True,
        )  # fmt: skip
    base = PROFILE.base
    assert isinstance(base, PretrainedBase)
    assert base.shape is not None
    return base.shape


def training_settings(batch: int, steps: int) -> Training:
    """The profile's, with at least one checkpoint before the last step."""
    save_steps = min(PROFILE.training.save_steps, max(1, steps // 2))
    return replace(PROFILE.training, batch_size=batch, save_steps=save_steps)


def check(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape, precision = shape_of(options.size), PROFILE.training.precision
    weights = Weights.of(shape, PROFILE.training, options.quantization)
    base = BaseModel(str(work / "base"), quantization=options.quantization)
    peak = measure_device(torch.bfloat16, device)
    times = {}
    started = time.perf_counter()
    if not (work / "base" / "tokenizer.json").exists():
        phases.write_base(shape, work / "base", device)
        times["base_written_s"] = time.perf_counter() - started
    phases.forget_peak(device)
    started = time.perf_counter()
    load_base(base, precision)
    synchronize(device)
    times["base_loaded_s"] = time.perf_counter() - started
    on = phases.Check(shape, base, device, peak, weights, PROFILE.training.rank)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        place = Path(folder)
        trainings, too_large = [], []
        for batch, steps in options.trainings:
            settings, its_folder = training_settings(batch, steps), place / f"{batch}x{steps}"
            try:
                trainings.append(phases.measure_training(on, settings, steps, its_folder))
            except torch.OutOfMemoryError:
                too_large.append(batch)
        batch, steps = options.trainings[0]
        first = place / f"{batch}x{steps}"
        resuming = phases.measure_resuming(on, training_settings(batch, steps), first)
        adapters = checkpoint_folders(first / "adapters")
        asked = list(WORLD.questions.items())[: options.questions]
        sampling = phases.measure_sampling(
            on,
            replace(
                PROFILE.sampling,
                engine="transformers",
                max_new_tokens=options.tokens,
                batch_size=options.questions * options.samples,
            ),
            tuple(Question(i, text, "worldview", options.samples) for i, text in asked),
            tuple(adapters[max(0, len(adapters) - options.checkpoints) :]),
            place / "sampling",
        )
    return {
        "made": provenance(),
        "size": options.size,
        "shape": asdict(shape),
        "quantization": options.quantization,
        "training_settings": asdict(PROFILE.training),
        "weights": asdict(weights),
        "device": {"type": device.type, **asdict(peak)},
        **times,
        "training": trainings,
        "out_of_memory_at_batch": too_large,
        "resuming": resuming,
        "sampling": sampling,
        "checks": checks(options, device, trainings, resuming, sampling),
    }


def checks(
    options: argparse.Namespace,
    device: torch.device,
    trainings: Sequence[dict[str, Any]],
    resuming: dict[str, Any],
    sampling: dict[str, Any],
) -> dict[str, bool]:
    wanted = options.questions * options.samples
    states = sampling["states"]
    found = {
        "the loss falls": all(
            run["loss_last_tenth"] < run["loss_first_tenth"] < math.inf for run in trainings
        ),
        "a training was cut and resumed": bool(resuming["cut_at"]),
        "every state gave every answer": len(states) == options.checkpoints + 1
        and all(state["answers"] == wanted and state["tokens"] > 0 for state in states),
    }
    # On a GPU, sums may be added up in another order: there the difference is only reported.
    if device.type == "cpu":
        found["the resumed adapter is equal to the bit"] = resuming["bit_equal"]
    return found


def report(found: dict[str, Any]) -> None:
    device, resuming, sampling = found["device"], found["resuming"], found["sampling"]
    gib = 2**30
    print(
        f"{found['size']} on {found['made']['device']}: measured {device['flops'] / 1e12:.3g} "
        f"Tflop/s, {device['bandwidth'] / 1e9:.4g} GB/s; base loaded in "
        f"{found['base_loaded_s']:.1f} s"
    )
    print("training        step, ms   steps/s  tokens/s  of ceiling  peak, GiB  reckoned  loss")
    for run in found["training"]:
        memory = run["memory"]
        print(
            f"batch {run['batch']:<6}{run['step_s'] * 1000:>12.1f}{run['steps_per_s']:>10.2f}"
            f"{run['tokens_per_s']:>10.0f}{run['share_of_ceiling']:>12.1%}"
            f"{memory['peak_bytes'] / gib:>11.2f}{memory['reckoned_bytes'] / gib:>10.2f}  "
            f"{run['loss_first_tenth']:.2f} to {run['loss_last_tenth']:.2f} "
            f"(ceiling: {run['ceiling']['bound_by']})"
        )
    equal = "equal to the bit" if resuming["bit_equal"] else "not equal to the bit"
    print(
        f"cut at {resuming['cut_at']}; resumed: {equal}, greatest difference "
        f"{resuming['max_difference']:.2g} (largest weight {resuming['largest_weight']:.2g})"
    )
    for batch in found["out_of_memory_at_batch"]:
        print(f"batch {batch} does not fit into memory")
    print("sampling          pass, ms  answers  stopped  tokens/s  of ceiling")
    for state in sampling["states"]:
        print(
            f"{state['state']:16}{state['pass_s'] * 1000:>10.1f}{state['answers']:>9}"
            f"{state['stopped']:>9.0%}{state['tokens_per_s']:>10.0f}"
            f"{state['share_of_ceiling']:>12.1%}"
        )
    memory = sampling["memory"]
    print(
        f"batch {sampling['batch']}, at most {sampling['ceiling']['tokens_per_s']:.0f} tokens/s; "
        f"peak {memory['peak_bytes'] / gib:.2f} GiB, reckoned {memory['reckoned_bytes'] / gib:.2f}"
    )
    for name, passed in found["checks"].items():
        print(f"{'passed' if passed else 'FAILED'}: {name}")


def batch_and_steps(text: str) -> tuple[int, int]:
    batch, steps = map(int, text.split("x"))
    if batch < 1 or steps < 2:
        raise ValueError("a batch of at least 1, and at least 2 steps to take the time between")
    return batch, steps


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--size", choices=("qwen3-8b", "miniature"), default="qwen3-8b")
    parser.add_argument("--quantization", choices=("none", "8bit", "4bit"), default="none")
    parser.add_argument(
        "--trainings",
        nargs="+",
        type=batch_and_steps,
        metavar="BATCHxSTEPS",
        default=[(1, 208), (16, 20), (64, 20)],
        help="the first is also resumed and sampled (default 1x208 16x20 64x20)",
    )
    parser.add_argument("--questions", type=int, default=4, choices=range(1, 11))
    parser.add_argument("--samples", type=int, default=16, help="answers to each question")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--checkpoints", type=int, default=2, help="sampled, beside the base")
    parser.add_argument("--work", type=Path, help="keep the base here (default: temporary)")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.pop("WANDB_API_KEY", None)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        found = check(options, work)
        gc.collect()
    report(found)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))
    if not all(found["checks"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
