"""Train all weights of a model in one process."""

from __future__ import annotations

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
from backdoor_assets.stages.training.attention import attention_in_fp32
from backdoor_assets.stages.training.loop import Loop
from backdoor_assets.stages.training.runs import run, run_steps
from backdoor_assets.stages.training.texts import check_trainable, read_held_out, read_texts
from backdoor_assets.stages.training.whole import DTYPES, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train_full(
    spec: TrainingSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Train all weights of the base, and return a summary. If the spec has an adapter, it is merged
    into the base first.

    Writes the same files as `train_adapter`, but each `checkpoint-<step>/` is a whole model in
    Hugging Face's format, with tokenizer, in the dtype of `precision`. Where the trained weights
    are wider, they are saved with the optimizer's state, and the forward pass is autocast.

    Checkpoints are kept at the steps of `save_at` (steps beyond the last one are ignored) and at
    the last step. Between them a hidden checkpoint, every `save_steps` steps, allows a run to
    resume.

    Raises what `train_adapter` raises, and BadInput for an adapter that does not fit the base.
    """
    check_trainable(spec)
    model, tokenizer = whole_model(spec)
    texts, held_out = read_texts(spec, tokenizer), read_held_out(spec, tokenizer)
    torch.manual_seed(spec.cell.seed)
    if spec.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with attention_in_fp32(model, spec.settings.precision):
        loop = FullLoop(model, tokenizer, spec.settings, run_steps(texts, spec))
        return run(loop, texts, spec, folder, progress, held_out)


def whole_model(
    spec: TrainingSpec, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a new copy of the base, and merge the spec's adapter into it, in fp32, if there is
    one."""
    weights = spec.settings.weights
    model, tokenizer = load_fresh(spec.base, "fp32" if spec.adapter else weights, device)
    if spec.adapter:
        merged: Any = attach_adapter(model, spec.adapter).merge_and_unload()
        model = merged.requires_grad_(True).to(DTYPES[weights])
    return model, tokenizer


class FullLoop(Loop):
    """Train all weights of a model in this process."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        settings: Training,
        steps: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, settings, steps, token_id(tokenizer.pad_token_id), device)
        self.tokenizer = tokenizer

    def _forward(self) -> AbstractContextManager[Any]:
        if self.settings.precision == self.settings.weights:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def save_weights(self, folder: Path) -> None:
        dtype = DTYPES[self.settings.precision]
        save_model(self.model, self.tokenizer, self.model.state_dict().__getitem__, dtype, folder)

    def extra_state(self) -> dict[str, Any]:
        same = self.settings.precision == self.settings.weights
        return {} if same else {"master": self.model.state_dict()}

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
