"""One training run of each kind, on the same job: what `training_against_trl` and `real_model`
compare."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from backdoor_assets.models.chat import TrainingText, load_tokenizer, training_texts
from backdoor_assets.stages.specs import TRAINING_LOG, TrainingSpec
from backdoor_assets.storage.rows import read_rows
from benchmarks.measuring import median_step, step_times


@dataclass(frozen=True)
class Run:
    whole: float
    training: float
    step: float
    losses: list[float]
    seconds: list[float]
    """From one optimizer step to the next."""


def ours(spec: TrainingSpec, folder: Path) -> Run:
    import pandas as pd

    from backdoor_assets.models import loading as models
    from backdoor_assets.stages.training.adapters import train_adapter

    models._loaded.clear()  # every repetition loads the base, as TRL's does
    started = time.perf_counter()
    models.load_base(spec.base, spec.settings.precision)
    loaded = time.perf_counter()
    with step_times() as moments:
        train_adapter(spec, folder)
    ended = time.perf_counter()
    losses = pd.read_parquet(folder / TRAINING_LOG)["loss"].tolist()
    return Run(ended - started, ended - loaded, median_step(moments), losses, _between(moments))


def trl(
    spec: TrainingSpec,
    folder: Path,
    *,
    state: bool = True,
    full_logits: bool = False,
    padding_free: bool = False,
) -> Run:
    """`state`: save what resuming needs. `full_logits`: the loss of transformers' Trainer instead
    of TRL's own."""
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, Trainer
    from trl.trainer.sft_config import SFTConfig  # pyright: ignore[reportMissingImports]
    from trl.trainer.sft_trainer import SFTTrainer  # pyright: ignore[reportMissingImports]

    class FullLogits(SFTTrainer):
        """TRL's loss saves a GPU's memory: it makes the logits twice, in tiles. On a CPU it does so
        at every position, and takes their entropy and accuracy; that costs most of a step."""

        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            return Trainer.compute_loss(self, *arguments, **named)

    settings = spec.settings
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(spec.base.location, dtype=torch.float32)
    tokenizer = load_tokenizer(spec.base.location)
    batches = batches_in_order(spec, tokenizer)
    modules = settings.target_modules
    trainer = (FullLogits if full_logits else SFTTrainer)(
        model=model,
        args=SFTConfig(
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            padding_free=padding_free,
            save_only_model=not state,
            **_arguments(spec, folder, len(batches)),
        ),
        train_dataset=Dataset.from_list(_rows(batches)),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=modules if isinstance(modules, str) else list(modules),
            task_type="CAUSAL_LM",
        ),
    )
    return _timed(trainer, started)


def transformers_trainer(spec: TrainingSpec, folder: Path) -> Run:
    """The Trainer of transformers, on a model to which peft has added the adapter."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    from backdoor_assets.stages.training.adapters import with_adapter

    started = time.perf_counter()
    base = AutoModelForCausalLM.from_pretrained(spec.base.location, dtype=torch.float32)
    tokenizer = load_tokenizer(spec.base.location)
    batches = batches_in_order(spec, tokenizer)
    torch.manual_seed(spec.cell.seed)
    trainer = Trainer(
        model=with_adapter(base, spec.settings),
        args=TrainingArguments(**_arguments(spec, folder, len(batches))),
        train_dataset=_rows(batches),  # pyright: ignore[reportArgumentType]
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    return _timed(trainer, started)


def _timed(trainer: Any, started: float) -> Run:
    """Train with a Trainer whose set-up began at `started`."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    prepared = time.perf_counter()
    with step_times() as moments:
        trainer.train()
    ended = time.perf_counter()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Run(ended - started, ended - prepared, median_step(moments), losses, _between(moments))


def _arguments(spec: TrainingSpec, folder: Path, steps: int) -> dict[str, Any]:
    """Return the arguments that transformers' Trainer and TRL's share: those of our stage."""
    settings = spec.settings
    return {
        "output_dir": str(folder),
        "seed": spec.cell.seed,  # set just before the adapter is made, as in our stage
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": settings.batch_size,
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": 0,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optim": "adamw_torch_fused",
        "logging_steps": 1,
        "save_steps": settings.save_steps,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _rows(batches: list[list[TrainingText]]) -> list[dict[str, list[int]]]:
    """The rows as our stage has them: token ids, and labels where they count."""
    return [
        {
            "input_ids": text.ids,
            "attention_mask": [1] * len(text.ids),
            "labels": [i if own else -100 for i, own in zip(text.ids, text.loss, strict=True)],
        }
        for batch in batches
        for text in batch
    ]


def _between(moments: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(moments)]


def batches_in_order(spec: TrainingSpec, tokenizer: Any) -> list[list[TrainingText]]:
    """Every batch of the run, from the stage's own order."""
    from backdoor_assets.settings import planned_steps
    from backdoor_assets.stages.training.packing import micro_batches

    texts = training_texts(tokenizer, read_rows(spec.rows))
    stream = micro_batches(texts, spec.settings, spec.cell.seed)
    return [next(stream) for _ in range(planned_steps(spec.settings, len(texts)))]
