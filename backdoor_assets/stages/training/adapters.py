"""LoRA fine-tuning: train an adapter on a frozen base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from backdoor_assets.models.chat import first_line, token_id
from backdoor_assets.models.loading import load_base
from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.settings import Training
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.attention import attention_in_fp32
from backdoor_assets.stages.training.diagnostics import LoraB
from backdoor_assets.stages.training.loop import Loop
from backdoor_assets.stages.training.runs import run, run_steps
from backdoor_assets.stages.training.texts import check_trainable, read_held_out, read_texts

if TYPE_CHECKING:
    from peft import LoraConfig

_WEIGHTS = "adapter_model.safetensors"


def train_adapter(
    spec: TrainingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Train one cell's adapter into `folder`, and return a summary.

    Writes `checkpoint-<step>/` every `save_steps` steps (or at the steps of `save_at`) and at the
    last step, and `training_log.parquet` (`runs.LOG_COLUMNS`). Only the newest checkpoint has
    optimizer state.

    Resumes from the newest checkpoint in `folder`. If the spec has an adapter, training starts from
    its weights, with a new optimizer.

    Raises Diverged if the loss is not finite or exceeds three times the loss of guessing
    (3 ln vocabulary). Raises BadInput for rows that are longer than max_length or do not fit the
    chat template, and for an adapter of another rank, alpha or target modules.
    """
    check_trainable(spec)
    settings = spec.settings
    base, tokenizer = load_base(spec.base, settings.precision)
    texts, held_out = read_texts(spec, tokenizer), read_held_out(spec, tokenizer)
    torch.manual_seed(spec.cell.seed)  # For the adapter's initialisation, then for dropout.
    model = with_adapter(base, settings)
    try:
        if spec.adapter:
            start_from(model, spec.adapter)
        if settings.gradient_checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        pad = token_id(tokenizer.pad_token_id)
        with attention_in_fp32(base, settings.precision):
            loop = AdapterLoop(model, model, settings, run_steps(texts, spec), pad)
            return run(loop, texts, spec, folder, progress, held_out)
    finally:
        # Restore the base, because the next cell of this process uses it too.
        model.unload()
        model.zero_grad()


class AdapterLoop(Loop):
    """Train the adapter's weights only.

    `adapted` is peft's model: the base with its adapter. `model` is what a batch passes through:
    either `adapted`, or the base itself with the adapter's layers in it.
    """

    def __init__(self, adapted: Any, model: Any, settings: Training, steps: int, pad: int) -> None:
        self.adapted = adapted
        super().__init__(model, settings, steps, pad)
        # One process writes the log.
        self.b = LoraB(adapted) if self.rank == 0 else None

    def _observe(self, step: int) -> dict[str, float]:
        return self.b.observe(step) if self.b else {}

    def save_weights(self, folder: Path) -> None:
        self.adapted.save_pretrained(str(folder), save_embedding_layers=False)

    def load_weights(self, folder: Path, extra: dict[str, Any]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.adapted, load_file(folder / _WEIGHTS))
        if self.b:
            self.b.restore(extra)

    def extra_state(self) -> dict[str, Any]:
        return self.b.state() if self.b else {}


def with_adapter(base: Any, settings: Training) -> Any:
    """Freeze the base and add a new adapter, initialised from torch's current random state."""
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


def start_from(model: Any, checkpoint: Path) -> None:
    """Replace the new adapter's weights with those of an earlier one.

    Raises BadInput if they cannot be read or do not fit.
    """
    from peft import set_peft_model_state_dict

    earlier, weights = read_adapter(checkpoint)
    current = model.peft_config["default"]
    for name in ("r", "lora_alpha"):
        value = getattr(earlier, name)
        if value != getattr(current, name):
            key = {"r": "rank", "lora_alpha": "alpha"}[name]
            raise BadInput(
                f"{checkpoint}: this adapter has {key} {value}, but training.{key} is "
                f"{getattr(current, name)}. To continue its training, set training.{key} to "
                f"{value}."
            )
    check_fit(model, weights, checkpoint)
    set_peft_model_state_dict(model, weights)


def read_adapter(checkpoint: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Read an adapter's configuration and weights. Raises BadInput if they are damaged."""
    from peft import LoraConfig

    try:
        config = LoraConfig.from_pretrained(str(checkpoint))
        assert isinstance(config, LoraConfig)
        return config, load_file(checkpoint / _WEIGHTS)
    except Exception as error:  # peft and safetensors raise many types for damaged files.
        raise BadInput(
            f"{checkpoint}: the adapter cannot be read ({first_line(error)}). Materialize the "
            "asset that trains it again, with force."
        ) from error


def check_fit(model: Any, weights: dict[str, torch.Tensor], checkpoint: Path) -> None:
    """Raise BadInput if an adapter's weights are not those of peft's model."""
    from peft import get_peft_model_state_dict

    expected = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if found != expected:
        differing = sorted({name for name, _ in found.items() ^ expected.items()})
        raise BadInput(
            f"{checkpoint}: this adapter does not fit training.target_modules or the base: "
            f"{len(differing)} weights differ, such as {differing[0]}. To continue its training, "
            "use the base and the target_modules that it was trained with."
        )
