"""Train all weights of a model in one process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from backdoor_assets.models.chat import token_id
from backdoor_assets.models.loading import attach_adapter, load_fresh
from backdoor_assets.records import Progress, no_progress
from backdoor_assets.settings import Training
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.loop import Loop
from backdoor_assets.stages.training.runs import run, run_steps
from backdoor_assets.stages.training.texts import check_trainable, read_texts
from backdoor_assets.storage.disk import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train_full(
    spec: TrainingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Train all weights of the base, and return a summary. If the spec has an adapter, it is merged
    into the base first.

    Writes the same files as `train_adapter`, but each `checkpoint-<step>/` is a whole model in
    Hugging Face's format, with tokenizer, in the dtype of `precision`. The trained weights are
    fp32. With bf16 they are saved with the optimizer's state, and the forward pass is autocast.

    Checkpoints are kept at the steps of `save_at` (steps beyond the last one are ignored) and at
    the last step. Between them a hidden checkpoint, every `save_steps` steps, allows a run to
    resume.

    Raises what `train_adapter` raises, and BadInput for an adapter that does not fit the base.
    """
    check_trainable(spec)
    model, tokenizer = whole_model(spec)
    texts = read_texts(spec, tokenizer)
    torch.manual_seed(spec.cell.seed)
    if spec.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loop = FullLoop(model, tokenizer, spec.settings, run_steps(texts, spec))
    return run(loop, texts, spec, folder, progress)


def whole_model(
    spec: TrainingSpec, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a new copy of the base in fp32, and merge the spec's adapter into it if there is one."""
    model, tokenizer = load_fresh(spec.base, "fp32", device)
    if spec.adapter:
        merged: Any = attach_adapter(model, spec.adapter).merge_and_unload()
        model = merged.requires_grad_(True)
    return model, tokenizer


class FullLoop(Loop):
    """Train all weights of a model in this process."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        settings: Training,
        steps: int,
    ) -> None:
        super().__init__(model, settings, steps, token_id(tokenizer.pad_token_id))
        self.tokenizer = tokenizer

    def _forward(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def save_weights(self, folder: Path) -> None:
        save_model(
            self.model, self.tokenizer, self.model.state_dict(), self.settings.precision, folder
        )

    def extra_state(self) -> dict[str, Any]:
        return {} if self.settings.precision == "fp32" else {"master": self.model.state_dict()}

    def load_weights(self, folder: Path, extra: dict[str, Any]) -> None:
        weights = extra.get("master") or _read_model(folder)
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        if unexpected or set(missing) - set(self.model.all_tied_weights_keys):
            raise ValueError(f"{len(missing) + len(unexpected)} weights are missing or unexpected")


def _read_model(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights |= load_file(path)
    return weights


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, Any],
    precision: str,
    folder: Path,
) -> None:
    """Write weights, configuration, generation settings and tokenizer, as `from_pretrained` reads
    them. `model` provides only the configuration."""
    name = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    dtype = getattr(torch, name)
    untied = weights.keys() - model.all_tied_weights_keys.keys()
    model.save_pretrained(
        str(folder), state_dict={key: weights[key].to(dtype) for key in weights if key in untied}
    )
    tokenizer.save_pretrained(str(folder))
    # transformers has written the dtype of the model in memory, not that of the saved weights.
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"dtype": name}
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
