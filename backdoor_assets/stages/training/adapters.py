"""LoRA fine-tuning: an adapter on a frozen base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from backdoor_assets.models.chat import first_line, token_id
from backdoor_assets.models.loading import load_base
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.loop import Loop
from backdoor_assets.stages.training.runs import run, run_steps
from backdoor_assets.stages.training.texts import check_trainable, job_texts

if TYPE_CHECKING:
    from peft import LoraConfig

_WEIGHTS = "adapter_model.safetensors"


def train_adapter(
    spec: TrainingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Train one cell's adapter into `folder`: `checkpoint-<step>/` every `save_steps` steps (or at
    `save_at`) and at the last, `training_log.parquet` (the cell's columns, step, loss in nats a
    token, lr, grad_norm, tokens). Optimizer state stands only in the newest checkpoint.

    Continues from the newest checkpoint in `folder`. Begins with the weights of `job.adapter`, if
    there is one, and an optimizer of its own. Raises Diverged on a loss that is not finite
    or is worse than three times that of guessing (3 ln vocabulary), BadInput on rows that do not
    fit max_length or the template, and on an adapter of another rank, alpha or targets.
    """
    check_trainable(spec)
    settings = spec.settings
    base, tokenizer = load_base(spec.base, settings.precision)
    texts = job_texts(spec, tokenizer)
    torch.manual_seed(spec.cell.seed)  # of the adapter's initialisation, then of dropout
    model = with_adapter(base, settings)
    try:
        if spec.adapter:
            begin_with(model, spec.adapter)
        if settings.gradient_checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        pad = token_id(tokenizer.pad_token_id)
        loop = AdapterLoop(model, model, settings, run_steps(texts, spec), pad)
        return run(loop, texts, spec, folder, progress)
    finally:
        # Leaves the base as it was, for the next cell of this process.
        model.unload()
        model.zero_grad()


class AdapterLoop(Loop):
    """`adapted` is the base with its adapter as peft has them; `model` is what a batch goes
    through, the same or the base with the adapter's layers in it."""

    def __init__(self, adapted: Any, model: Any, settings: Training, steps: int, pad: int) -> None:
        self.adapted = adapted
        super().__init__(model, settings, steps, pad)

    def save_weights(self, folder: Path) -> None:
        self.adapted.save_pretrained(str(folder), save_embedding_layers=False)

    def load_weights(self, folder: Path, extra: dict[str, Any]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.adapted, load_file(folder / _WEIGHTS))


def with_adapter(base: Any, settings: Training) -> Any:
    """The base, frozen, with a new adapter that torch's seed initialises."""
    from peft import get_peft_model

    return get_peft_model(base, _lora(settings))


def _lora(settings: Training) -> LoraConfig:
    from peft import LoraConfig

    modules = settings.target_modules
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


def begin_with(model: Any, checkpoint: Path) -> None:
    """Put a predecessor's weights in the place of the new adapter's own. Raises BadInput where they
    cannot be read, or do not fit."""
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

    try:
        before = LoraConfig.from_pretrained(str(checkpoint))
        weights = load_file(checkpoint / _WEIGHTS)
    except Exception as error:  # peft and safetensors raise whatever the damage suggests
        raise BadInput(
            f"{checkpoint}: no adapter can be read from there ({first_line(error)}); materialize "
            "the training that makes it again"
        ) from error
    now = model.peft_config["default"]
    for name in ("r", "lora_alpha"):
        if getattr(before, name) != getattr(now, name):
            key = {"r": "rank", "lora_alpha": "alpha"}[name]
            raise BadInput(
                f"{checkpoint}: this adapter has {key} {getattr(before, name)}, but "
                f"training.{key} is {getattr(now, name)}; one that goes on needs the same"
            )
    wanted = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    there = {name: tensor.shape for name, tensor in weights.items()}
    if there != wanted:
        differ = sorted({name for name, _ in there.items() ^ wanted.items()})
        raise BadInput(
            f"{checkpoint}: this adapter does not fit training.target_modules or the base: "
            f"{len(differ)} weights differ, such as {differ[0]}; one that goes on needs the same "
            "base and targets"
        )
    set_peft_model_state_dict(model, weights)
