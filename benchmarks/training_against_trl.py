"""Our training stage against TRL's SFTTrainer, on the same rows in the same order.

    python -m benchmarks.training_against_trl [--repeats 5] [--json results.json]

Base, rows, row order, adapter initialisation, optimizer, schedule, clipping and dtype (fp32) are
the same, so the two loss curves must agree within rounding: the benchmark fails if they do not. It
runs on the CPU with one thread, as a worker process does, and repetitions alternate.

What is timed, and how the doubt is settled where the two differ:

- `training` is all of `train_adapter` with the base loaded (reading rows, tokens, adapter, log
  table), but only `trainer.train()` of TRL. `whole` adds what comes before: loading the base, and
  TRL's data set and trainer. A `step` is the median time from one optimizer step to the next.
- TRL gets our tokens and labels ready-made and does not prepare them again. It logs every step, as
  we do, and prints nothing.
- Our checkpoints can be resumed (optimizer, schedule and random state in the newest). So can those
  of "TRL"; "adapters only" is the generous case that saves no state at all.
- TRL's own loss is made for a GPU, and slow on a CPU; "full logits" also replaces it by the one of
  transformers' Trainer, and drops TRL's metrics. That ratio is what the loop itself gains.
- "padding-free" is TRL's own option. TRL supports it with FlashAttention only; the losses tell
  whether it is right on a CPU. The last line is the same question to our stage.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from backdoor_assets.models.chat import load_tokenizer
from backdoor_assets.profiles import MINIATURE, PROFILES, Mixture, Training
from backdoor_assets.records import BaseModel
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.storage.provenance import provenance
from benchmarks.measuring import (
    CELL,
    bird_rows,
    miniature_base,
    ratios,
    show,
    spread,
)
from benchmarks.padding import padding, with_and_without
from benchmarks.trainers import Run, batches_in_order, ours, trl

TOLERANCE = 1e-4
"""Nats a token by which two loss curves may differ at any step."""
OURS = "ours"
CONTESTANTS: dict[str, Callable[[TrainingSpec, Path], Run]] = {
    OURS: ours,
    "TRL": trl,
    "TRL, adapters only": partial(trl, state=False),
    "TRL, full logits": partial(trl, state=False, full_logits=True),
    "TRL, padding-free": partial(trl, padding_free=True),
}


@dataclass(frozen=True)
class Setting:
    name: str
    training: Training
    mixture: Mixture
    contestants: tuple[str, ...] = tuple(CONTESTANTS)


QWEN = PROFILES["qwen3-8b"]
SETTINGS = (
    Setting("miniature", MINIATURE.training, MINIATURE.mixture),
    Setting(
        "as qwen3-8b, in fp32",
        replace(QWEN.training, precision="fp32"),
        QWEN.mixture,
        # A batch of one row has no padding to be free of.
        tuple(name for name in CONTESTANTS if "padding" not in name),
    ),
)
TIMES = ("whole", "training", "step")


def measure(setting: Setting, base: Path, repeats: int, folder: Path) -> dict[str, Any]:
    """All contestants, a repetition after the other, each beginning with another contestant."""
    rows = bird_rows(folder / "rows", setting.mixture)
    spec = TrainingSpec(CELL, rows, BaseModel(str(base)), setting.training)
    runs: dict[str, list[Run]] = {name: [] for name in setting.contestants}
    for repetition in range(repeats + 1):
        turn = repetition % len(setting.contestants)
        for name in (*setting.contestants[turn:], *setting.contestants[:turn]):
            gc.collect()
            with tempfile.TemporaryDirectory(dir=folder) as out:
                run = CONTESTANTS[name](spec, Path(out))
            if repetition > 0:  # the first round warms up: imports, files, caches
                runs[name].append(run)
    reference = runs[OURS][0].losses
    batches = batches_in_order(spec, load_tokenizer(spec.base.location))
    apart = {
        name: max(abs(a - b) for run in found for a, b in zip(run.losses, reference, strict=True))
        for name, found in runs.items()
    }
    return {
        "setting": setting.name,
        "training": asdict(setting.training),
        "rows": setting.mixture.rows,
        "steps": len(reference),
        "first_loss": reference[0],
        "last_loss": reference[-1],
        "padding": {
            **padding(batches),
            "forward_and_backward": with_and_without(spec, batches, repeats),
        },
        "contestants": {
            name: {
                **{key: spread([getattr(run, key) for run in found]) for key in TIMES},
                "ratio": {
                    key: ratios(
                        [getattr(run, key) for run in found],
                        [getattr(run, key) for run in runs[OURS]],
                    )
                    for key in TIMES
                },
                "loss_apart": apart[name],
                "runs": [{key: getattr(run, key) for key in TIMES} for run in found],
            }
            for name, found in runs.items()
        },
    }


def report(found: dict[str, Any]) -> None:
    pad, training = found["padding"], found["training"]
    print(
        f"\n{found['setting']}: batch {training['batch_size']}, {found['steps']} steps, loss "
        f"{found['first_loss']:.2f} to {found['last_loss']:.2f}; rows of {pad['shortest_row']} to "
        f"{pad['longest_row']} tokens, {pad['padding_share']:.1%} of a batch is padding"
    )
    print(f"{'':20}{'whole, s':>22}{'training, s':>22}{'step, ms':>24}{'loss apart':>12}")
    for name, entry in found["contestants"].items():
        step = {key: 1000 * value for key, value in entry["step"].items()}
        print(
            f"{name:20}{show(entry['whole'], 2):>22}{show(entry['training'], 2):>22}"
            f"{show(step, 2):>24}{entry['loss_apart']:>12.1e}"
        )
    for name, entry in found["contestants"].items():
        if name != OURS:
            times = ", ".join(f"{key} {show(entry['ratio'][key], 2)}" for key in TIMES)
            print(f"{name} / ours: {times}")
    both = pad["forward_and_backward"]
    print(
        f"our forward and backward without padding: {show(both['ratio'], 2)} times as fast, losses "
        f"{both['loss_apart']:.1e} apart"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pretraining-steps", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.pop("WANDB_API_KEY", None)
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    found = []
    with tempfile.TemporaryDirectory() as place:
        base = miniature_base(Path(place), options.pretraining_steps, documents=4000)
        for setting in SETTINGS:
            found.append(measure(setting, base, options.repeats, Path(place) / setting.name))
            report(found[-1])
    if options.json:
        results = {"made": provenance(), "repeats": options.repeats, "settings": found}
        options.json.write_text(json.dumps(results, indent=1))
    for entry in found:
        for name, contestant in entry["contestants"].items():
            apart = contestant["loss_apart"]
            assert apart < TOLERANCE, f"{entry['setting']}: {name}'s losses are {apart:.2g} apart"


if __name__ == "__main__":
    main()
