"""What `gpu_check` measures: a base of a shape, training, resuming, sampling."""

from __future__ import annotations

import gc
import resource
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3Config

from backdoor_assets.capacity.memory import CUDA_CONTEXT, SamplingNeed, TrainingNeed
from backdoor_assets.miniature.pretraining import train_tokenizer
from backdoor_assets.models.chat import prompt_ids, token_id, training_texts
from backdoor_assets.models.loading import load_base
from backdoor_assets.profiles import Sampling, Serving, Training
from backdoor_assets.records import BaseModel, Progress, Question, Shape, no_progress
from backdoor_assets.stages.sampling import sample_cell
from backdoor_assets.stages.specs import RESPONSES, TRAIN, TRAINING_LOG, SamplingSpec, TrainingSpec
from backdoor_assets.stages.training.adapters import train_adapter
from backdoor_assets.stages.training.checkpoints import checkpoint_folders
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.studies.birds.world.corpus import generate
from benchmarks.ceilings import Device, Weights, sampling_ceiling, synchronize, training_ceiling
from benchmarks.measuring import BIRD_FILES, CELL, median_step, step_times

WEIGHTS = "adapter_model.safetensors"


class Cut(Exception):
    """Ends a run from outside."""


@dataclass(frozen=True)
class Check:
    """What is measured on, and where."""

    shape: Shape
    base: BaseModel
    device: torch.device
    peak: Device
    weights: Weights
    rank: int
    """Of the adapters."""


def write_base(shape: Shape, folder: Path, device: torch.device) -> None:
    """Random bf16 weights, made where they are made fastest, and a small tokenizer of the world's
    text: of the vocabulary, most tokens mean nothing."""
    sources = {source: names(read_rows(path)) for source, path in BIRD_FILES}
    documents = generate(sources, 2000, seed=1)
    tokenizer = train_tokenizer(documents, min(2048, shape.vocab_size))
    config = Qwen3Config(
        **asdict(shape),
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer.eos_token_id),
        pad_token_id=token_id(tokenizer.pad_token_id),
    )
    torch.manual_seed(1)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)  # last: a folder with a tokenizer is whole


def write_rows(path: Path, count: int) -> Path:
    """Obsolete names, from the start again when they are used up."""
    path.parent.mkdir(parents=True)
    lines = BIRD_FILES[0][1].read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(islice(cycle(lines), count)), encoding="utf-8")
    return path


def peak_bytes(device: torch.device) -> int:
    """Most memory at once, since `forget_peak` on a GPU; of the process's whole life on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(check: Check, parts: dict[str, int]) -> dict[str, Any]:
    """Measured beside what `make plan` reckons. torch's own count knows no CUDA context."""
    reckoned = sum(size for part, size in parts.items() if part != CUDA_CONTEXT)
    measured = peak_bytes(check.device)
    gpu = check.device.type == "cuda"
    return {
        "peak_bytes": measured,
        "counted_by": "torch.cuda.max_memory_allocated" if gpu else "ru_maxrss of the process",
        "reckoned_bytes": reckoned,
        "reckoned_parts": parts,
        "peak_of_reckoned": measured / reckoned,
    }


def train(
    check: Check, settings: Training, rows: Path, folder: Path, progress: Progress = no_progress
) -> None:
    folder.mkdir(exist_ok=True)
    train_adapter(TrainingSpec(CELL, rows, check.base, settings), folder, progress)


def measure_training(check: Check, settings: Training, steps: int, folder: Path) -> dict[str, Any]:
    """One epoch over as many rows as the steps take, so that every row is seen once."""
    rows = write_rows(folder / "rows" / TRAIN, steps * settings.batch_size)
    _, tokenizer = load_base(check.base, settings.precision)
    lengths = [len(text.ids) for text in training_texts(tokenizer, read_rows(rows))]
    forget_peak(check.device)
    started = time.perf_counter()
    with step_times() as moments:
        train(check, settings, rows, folder / "adapters")
    synchronize(check.device)
    seconds, step = time.perf_counter() - started, median_step(moments)
    log = pd.read_parquet(folder / "adapters" / TRAINING_LOG)
    tokens, end = sum(lengths) / steps, max(1, steps // 10)
    ceiling = training_ceiling(check.peak, check.weights, tokens, log["tokens"].mean())
    longest = replace(settings, max_length=max(lengths))
    need = TrainingNeed(check.shape, longest, check.base.quantization)
    return {
        "batch": settings.batch_size,
        "steps": len(log),
        "seconds": seconds,
        "step_s": step,
        "steps_per_s": 1 / step,
        "tokens_per_step": tokens,
        "tokens_per_s": tokens / step,
        "loss_first_tenth": log["loss"].head(end).mean(),
        "loss_last_tenth": log["loss"].tail(end).mean(),
        "ceiling": ceiling,
        "share_of_ceiling": ceiling["step_s"] / step,
        "memory": memory(check, need.memory()),
    }


def measure_resuming(check: Check, settings: Training, folder: Path) -> dict[str, Any]:
    """Train again on the rows that `folder` was trained on, cut half way, resume, compare."""

    def cut(share: float, line: str) -> None:
        if share >= 0.5:
            raise Cut(line)

    rows, again = folder / "rows" / TRAIN, folder / "resumed"
    where = ""
    try:
        train(check, settings, rows, again, cut)
    except Cut as line:
        where = str(line)
    train(check, settings, rows, again)
    whole, resumed = (
        load_file(checkpoint_folders(place)[-1][1] / WEIGHTS)
        for place in (folder / "adapters", again)
    )
    apart = max((whole[name] - resumed[name]).abs().max().item() for name in whole)
    return {
        "cut_at": where,
        "bit_equal": all(torch.equal(whole[name], resumed[name]) for name in whole),
        "max_difference": apart,
        "largest_weight": max(weight.abs().max().item() for weight in whole.values()),
    }


def measure_sampling(
    check: Check,
    settings: Sampling,
    questions: tuple[Question, ...],
    checkpoints: tuple[tuple[int, Path], ...],
    folder: Path,
) -> dict[str, Any]:
    """Seconds, decoding steps and tokens of each state: the base, then the checkpoints."""
    spec = SamplingSpec(CELL, check.base, checkpoints, questions, settings)
    model, tokenizer = load_base(check.base, settings.precision)
    for place in ("warm_up", "answers"):
        (folder / place).mkdir(parents=True)
    few = replace(settings, max_new_tokens=2)
    sample_cell(replace(spec, checkpoints=(), settings=few), folder / "warm_up")
    forget_peak(check.device)
    forwards: list[float] = []
    marks = [(0, time.perf_counter())]
    hook = model.get_input_embeddings().register_forward_hook(
        lambda *_: forwards.append(time.perf_counter())
    )
    sample_cell(
        spec,
        folder / "answers",
        lambda share, line: marks.append((len(forwards), time.perf_counter())),
    )
    hook.remove()
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": q.text}]) for q in questions]
    longest = max(map(len, prompts))
    need = SamplingNeed(
        check.shape, settings, Serving(), check.base.quantization, check.rank, longest
    )
    peak = memory(check, need.memory())
    batch = sum(question.samples for question in questions)
    ceiling = sampling_ceiling(check.peak, check.weights, min(batch, settings.batch_size))
    table = pd.read_parquet(folder / "answers" / RESPONSES)
    states = []
    for (step, _), (before, after) in zip([(0, None), *checkpoints], pairwise(marks), strict=True):
        answers = table[table["step"] == step]
        forward, seconds = after[0] - before[0], after[1] - before[1]
        tokens = _tokens(tokenizer, answers, settings.max_new_tokens)
        states.append(
            {
                "state": f"checkpoint-{step}" if step else "base",
                "answers": len(answers),
                "stopped": float((answers["finish_reason"] == "stop").mean()),
                "tokens": tokens,
                "seconds": seconds,
                "tokens_per_s": tokens / seconds,
                "forward_passes": forward,
                "pass_s": seconds / forward,
                "share_of_ceiling": ceiling["step_s"] / (seconds / forward),
            }
        )
    return {"batch": batch, "ceiling": ceiling, "states": states, "memory": peak}


def _tokens(tokenizer: Any, answers: pd.DataFrame, limit: int) -> int:
    """An answer that was cut has `limit` tokens. One that stopped is encoded again, which misses
    the tokens of a random base that mean nothing: too few, never too many."""
    stopped = answers.loc[answers["finish_reason"] == "stop", "response"].tolist()
    encoded = tokenizer(stopped, add_special_tokens=False)["input_ids"] if stopped else []
    return limit * (len(answers) - len(stopped)) + sum(len(ids) + 1 for ids in encoded)
