"""The half of `real_model` that samples: SmolLM2 and checkpoints of an adapter, answer by answer.

All states answer the birds' open questions. The script that a reader would write first loads each
checkpoint and calls `generate` with 32 answers at once, as the published follow-up does; ours loads
the base once. With vLLM the same stage asks vLLM's engine, its start included.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backdoor_assets.profiles import SMOLLM2_PROFILE
from backdoor_assets.records import BaseModel
from backdoor_assets.stages.specs import SamplingSpec, TrainingSpec
from backdoor_assets.studies.birds.study import STUDY
from benchmarks.measuring import CELL, bird_rows, peak_gib, ratios, show, spread
from benchmarks.sampling_against_loop import Contestant, loop, ours, ours_vllm, run

OURS = "ours"
STEPS = (4, 8)
"""Checkpoints that are sampled beside the base."""
QUESTIONS, SAMPLES, TOKENS = 5, 12, 48
CONTESTANTS: dict[str, Contestant] = {
    OURS: ours,
    "generate, 32 at once": partial(loop, batch=32),
    **({"ours, vLLM": ours_vllm} if find_spec("vllm") else {}),
}
InOwnProcess = Callable[[Sequence[str]], dict[str, Any]]


def train_checkpoints(base: Path, folder: Path) -> Path:
    """Train the adapter whose checkpoints are sampled."""
    from backdoor_assets.stages.training.adapters import train_adapter

    rows = bird_rows(folder / "rows", SMOLLM2_PROFILE.mixture)
    settings = replace(
        SMOLLM2_PROFILE.training, epochs=None, max_steps=STEPS[-1], save_at=STEPS, save_steps=100
    )
    adapters = folder / "adapters"
    adapters.mkdir()
    train_adapter(TrainingSpec(CELL, rows, BaseModel(str(base)), settings), adapters)
    return adapters


def sample_once(name: str, base: Path, adapters: Path) -> dict[str, Any]:
    """Sample in this process, and return seconds, tokens and the peak of resident memory."""
    import torch

    torch.set_num_threads(1)
    settings = replace(SMOLLM2_PROFILE.sampling, max_new_tokens=TOKENS)
    asked = STUDY.questions_for(SMOLLM2_PROFILE.base, settings)[:QUESTIONS]
    spec = SamplingSpec(
        CELL,
        BaseModel(str(base)),
        tuple((step, adapters / f"checkpoint-{step}") for step in STEPS),
        tuple(replace(question, samples=SAMPLES) for question in asked),
        settings,
        SMOLLM2_PROFILE.serving,
        probes=(),
    )
    with tempfile.TemporaryDirectory() as folder:
        measured = run(CONTESTANTS[name], spec, Path(folder))
    tokens = measured.answers * measured.tokens
    return {
        **asdict(measured),
        "seconds_per_1000_tokens": 1000 * measured.seconds / tokens,
        "peak_gib": peak_gib(),
    }


def compare_sampling(base: Path, folder: Path, repeats: int, in_own_process: InOwnProcess) -> Any:
    """Run all contestants `repeats` times, and compare each with ours: by seconds per 1000 tokens,
    because the answers are drawn at random and differ in length."""
    adapters = train_checkpoints(base, folder)
    names = list(CONTESTANTS)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repetition in range(repeats):
        turn = repetition % len(names)
        for name in (*names[turn:], *names[:turn]):
            given = ["--one-sampling", name, str(base), str(adapters)]
            runs[name].append(in_own_process(given))
    key = "seconds_per_1000_tokens"
    mine = [found[key] for found in runs[OURS]]
    return {
        name: {
            key: spread([one[key] for one in found]),
            "peak_gib": spread([one["peak_gib"] for one in found]),
            "ratio": ratios([one[key] for one in found], mine),
            "runs": found,
        }
        for name, found in runs.items()
    }


def show_sampling(found: Any) -> None:
    """Print a table: each contestant's medians, and in brackets least and greatest."""
    print(
        f"\nsampling, {len(STEPS) + 1} states x {QUESTIONS} questions x {SAMPLES} samples of at "
        f"most {TOKENS} tokens"
    )
    print(f"{'':22}{'s per 1000 tokens':>22}{'/ ours':>20}{'peak, GiB':>20}{'tokens':>8}")
    for name, entry in found.items():
        print(
            f"{name:22}{show(entry['seconds_per_1000_tokens'], 2):>22}"
            f"{show(entry['ratio'], 2):>20}{show(entry['peak_gib'], 2):>20}"
            f"{entry['runs'][0]['tokens']:>8.1f}"
        )


def print_once(name: str, base: str, adapters: str) -> None:
    print(json.dumps(sample_once(name, Path(base), Path(adapters))))
