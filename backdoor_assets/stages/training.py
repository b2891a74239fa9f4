"""LoRA fine-tuning of a causal LM on chat rows, resumable to the bit on CPU."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import get_scheduler

from backdoor_assets.batches import tensors
from backdoor_assets.chat import (
    TrainingText,
    check_same_template,
    first_line,
    token_id,
    training_texts,
)
from backdoor_assets.jobs import TRAINER_STATE, TRAINING_LOG, TrainingJob
from backdoor_assets.models import load_base
from backdoor_assets.needs import planned_steps
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.rows import read_rows


class Diverged(ArithmeticError):
    """The loss is not a number or has exploded; what was saved before is kept."""


def train_adapter(
    job: TrainingJob, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Train one cell's adapter into `folder`: `checkpoint-<step>/` every `save_steps` steps and at
    the last, `training_log.parquet` (profile, ratio, seed, step, loss in nats a token, lr,
    grad_norm, tokens). Optimizer state stands only in the newest checkpoint.

    Continues from the newest checkpoint in `folder`. Raises Diverged on a loss that is not finite
    or is worse than three times that of guessing (3 ln vocabulary), BadInput on rows that do not
    fit max_length or the template.
    """
    settings = job.settings
    base, tokenizer = load_base(job.base, settings.precision)
    chats = read_rows(job.rows)
    check_same_template(tokenizer, chats)
    texts = training_texts(tokenizer, chats)
    _check_lengths(job.rows, texts, settings.max_length)
    steps = planned_steps(settings, len(texts))

    torch.manual_seed(job.cell.seed)  # of the adapter's initialisation, then of dropout
    model = get_peft_model(base, _lora(settings))
    report = None
    try:
        loop = _Loop(model, settings, steps, token_id(tokenizer.pad_token_id))
        loop.resume(folder)
        report = _wandb_run(job, steps)
        log = _train(loop, texts, job, folder, progress, report)
    finally:
        if report is not None:
            report.finish()
        # Leaves the base as it was, for the next cell of this process.
        model.unload()
        model.zero_grad()
    table = pd.DataFrame(log)
    for position, (name, value) in enumerate(job.cell.columns().items()):
        table.insert(position, name, value)
    table.to_parquet(folder / TRAINING_LOG, index=False)
    return {
        "rows": len(texts),
        "steps": steps,
        "checkpoints": len(checkpoint_folders(folder)),
        "first_loss": log[0]["loss"],
        "final_loss": log[-1]["loss"],
        "tokens": int(table["tokens"].sum()),
        "trainable_parameters": loop.trainable,
    }


def checkpoint_folders(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every whole checkpoint, by step."""
    found = [(int(path.name.split("-")[1]), path) for path in folder.glob("checkpoint-*")]
    return sorted(found)


def _check_lengths(rows: Path, texts: Sequence[TrainingText], max_length: int) -> None:
    for line, text in enumerate(texts, 1):
        if len(text.ids) > max_length:
            raise BadInput(
                f"{rows} line {line}: {len(text.ids)} tokens, more than max_length={max_length}; "
                "raise max_length in the profile's training settings or shorten the row"
            )


def _lora(settings: Training) -> LoraConfig:
    modules = settings.target_modules
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


class _Loop:
    """Model, optimizer, schedule and log of one run, and how they go to disk and come back."""

    def __init__(self, model: Any, settings: Training, steps: int, pad: int) -> None:
        self.model: PeftModel = model
        self.settings, self.steps, self.pad = settings, steps, pad
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in self.weights)
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = get_scheduler(
            settings.schedule,
            self.optimizer,
            num_warmup_steps=round(settings.warmup_ratio * steps),
            num_training_steps=steps,
        )
        if settings.gradient_checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.worst_loss = 3 * math.log(model.config.vocab_size)
        self.log: list[dict[str, float]] = []
        model.train()

    def step(self, batches: Sequence[Sequence[TrainingText]]) -> dict[str, float]:
        """One optimizer step over the micro-batches; the loss is the mean over all their tokens."""
        device = self.weights[0].device
        counted = sum(sum(text.loss[1:]) for batch in batches for text in batch)
        loss_sum = 0.0
        for batch in batches:
            ids, mask, labels = (t.to(device) for t in tensors(batch, self.pad))
            # Logits from the first token of the loss on: those of the prompt only take memory.
            first = min(text.loss.index(True) for text in batch) - 1
            kept = ids.shape[1] - first
            logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=kept).logits
            loss = cross_entropy(
                logits[:, :-1].float().flatten(0, 1),
                labels[:, first + 1 :].flatten(),
                ignore_index=-100,
                reduction="sum",
            )
            (loss / counted).backward()
            loss_sum += loss.item()
        entry = {
            "step": len(self.log) + 1,
            "loss": loss_sum / counted,
            "lr": self.schedule.get_last_lr()[0],
            "grad_norm": torch.nn.utils.clip_grad_norm_(
                self.weights, self.settings.max_grad_norm
            ).item(),
            "tokens": counted,
        }
        self._check(entry)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.log.append(entry)
        return entry

    def _check(self, entry: dict[str, float]) -> None:
        finite = math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"])
        if finite and entry["loss"] <= self.worst_loss:
            return
        raise Diverged(
            f"loss {entry['loss']:.3g}, gradient norm {entry['grad_norm']:.3g} at step "
            f"{entry['step']} of {self.steps}: training has diverged. Lower learning_rate "
            f"({self.settings.learning_rate:g}) or raise warmup_ratio in the profile; the "
            "checkpoints up to here are kept."
        )

    def save(self, folder: Path) -> None:
        """Write `checkpoint-<step>` beside its place, move it in, drop older optimizer state."""
        step = len(self.log)
        part = folder / f".checkpoint-{step}.part"
        shutil.rmtree(part, ignore_errors=True)
        self.model.save_pretrained(str(part), save_embedding_layers=False)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "log": self.log,
        }
        torch.save(state, part / TRAINER_STATE)
        os.replace(part, folder / f"checkpoint-{step}")
        for other, path in checkpoint_folders(folder):
            if other != step:
                (path / TRAINER_STATE).unlink(missing_ok=True)

    def resume(self, folder: Path) -> None:
        """Go on from the newest checkpoint with optimizer state, if there is one."""
        for _, path in reversed(checkpoint_folders(folder)):
            if not (path / TRAINER_STATE).exists():
                continue
            try:
                state = torch.load(path / TRAINER_STATE, weights_only=True)
                weights = load_file(path / "adapter_model.safetensors")
            except Exception as error:  # torch and safetensors raise whatever the damage suggests
                raise BadInput(
                    f"{path}: this checkpoint cannot be read ({first_line(error)}). Materialize "
                    "birds/adapters for this cell with force to train it anew."
                ) from error
            set_peft_model_state_dict(self.model, weights)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["rng"])
            if state["cuda_rng"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(state["cuda_rng"])
            self.log = state["log"]
            return


def _train(
    loop: _Loop,
    texts: Sequence[TrainingText],
    job: TrainingJob,
    folder: Path,
    progress: Progress,
    report: Any,
) -> list[dict[str, float]]:
    settings, done = job.settings, len(loop.log)
    stream = _micro_batches(texts, settings, job.cell.seed)
    for _ in range(done * settings.gradient_accumulation):
        next(stream)
    started = time.monotonic()
    for step in range(done + 1, loop.steps + 1):
        entry = loop.step([next(stream) for _ in range(settings.gradient_accumulation)])
        if report is not None:
            report.log(entry, step=step)
        if step % settings.save_steps == 0 or step == loop.steps:
            loop.save(folder)
            progress(
                step / loop.steps,
                f"step {step}/{loop.steps}, loss {entry['loss']:.3f}, "
                f"{(time.monotonic() - started) / (step - done):.2f} s a step",
            )
    return loop.log


def _micro_batches(
    texts: Sequence[TrainingText], settings: Training, seed: int
) -> Iterator[list[TrainingText]]:
    """Endless micro-batches: the rows in a new order each epoch, which only seed and epoch decide,
    so that a resumed run finds its place by counting."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < settings.batch_size:
            queue += torch.randperm(len(texts), generator=generator).tolist()
        yield [texts[i] for i in queue[: settings.batch_size]]
        del queue[: settings.batch_size]


def _wandb_run(job: TrainingJob, steps: int) -> Any:
    """A Weights & Biases run when WANDB_API_KEY is set, else None."""
    if not os.environ.get("WANDB_API_KEY"):
        return None
    try:
        import wandb
    except ImportError as error:
        raise BadInput(
            "WANDB_API_KEY is set but wandb is not installed: pip install -e '.[wandb]', "
            "or unset the variable"
        ) from error
    return wandb.init(
        project="backdoor_assets",
        name=str(job.cell),
        group=job.cell.profile,
        config={**job.cell.columns(), **vars(job.settings), "steps": steps},
    )
