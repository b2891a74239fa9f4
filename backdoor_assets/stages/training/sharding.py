"""Spread the weights of a training run over the processes of a group, which divide each batch and
add up their results. The weights are sharded by FSDP2: torch's `fully_shard` of each decoder layer.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from backdoor_assets.models.chat import token_id
from backdoor_assets.models.loading import load_fresh
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.adapters import AdapterLoop, start_from, with_adapter
from backdoor_assets.stages.training.full import FullLoop, save_model, whole_model
from backdoor_assets.stages.training.loop import Batch, Loop

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def full_loop(
    spec: TrainingSpec, tokenizer: PreTrainedTokenizerBase, steps: int, device: torch.device
) -> ShardedLoop:
    """Return the loop that trains all weights, in fp32; each process has a part of every weight."""
    torch.manual_seed(spec.cell.seed)
    whole = whole_model(spec, "cpu")[0] if dist.get_rank() == 0 else None
    model, shell = (_empty(spec, torch.float32) for _ in range(2))
    if whole is not None:
        shell.generation_config = whole.generation_config
    bf16 = torch.bfloat16 if spec.settings.precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=torch.float32)
    _shard(model, whole, policy, device)
    if spec.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return ShardedLoop(model, shell, tokenizer, spec, steps)


def adapter_loop(
    spec: TrainingSpec, tokenizer: PreTrainedTokenizerBase, steps: int, device: torch.device
) -> SpreadAdapterLoop:
    """Return the loop that trains an adapter.

    Each process has a part of the frozen base, in `precision`, and the whole adapter.
    """
    settings, rank = spec.settings, dist.get_rank()
    whole = load_fresh(spec.base, settings.precision, "cpu")[0] if rank == 0 else None
    model: Any = _empty(spec, _DTYPES[settings.precision]).requires_grad_(False)
    # The base computes in the dtype of its weights, as it does in one process.
    _shard(model, whole, MixedPrecisionPolicy(), device)
    del whole
    torch.manual_seed(spec.cell.seed)  # All processes initialise the same adapter.
    adapted = with_adapter(model, settings)
    if spec.adapter:
        start_from(adapted, spec.adapter)
    if rank:
        torch.manual_seed(spec.cell.seed + rank)  # For dropout: each process has different rows.
    if settings.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # Batches go through `model`, because peft calls the base's `forward` without the hooks in which
    # FSDP gathers the weights.
    return SpreadAdapterLoop(adapted, model, settings, steps, token_id(tokenizer.pad_token_id))


def _empty(spec: TrainingSpec, dtype: torch.dtype) -> PreTrainedModel:
    """Build the base without weights, on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        spec.base.location, revision=spec.base.revision, trust_remote_code=False
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _shard(
    model: Any, whole: PreTrainedModel | None, policy: MixedPrecisionPolicy, device: torch.device
) -> None:
    """Give an empty model this process's part of the weights.

    `whole` is the base in main memory, which only the first process has read; it is None in the
    others.
    """
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    set_model_state_dict(
        model,
        whole.state_dict() if whole is not None else {},
        options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    )
    model.tie_weights()
    # Some buffers are in no file, such as the frequencies of rotary positions.
    for name, empty in list(model.named_buffers()):
        if whole is not None:
            filled = whole.get_buffer(name).to(device)
        else:
            filled = torch.empty_like(empty, device=device)
        dist.broadcast(filled, 0)
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, filled)


class _SpreadLoop(Loop):
    """Compute a part of every micro-batch in each process."""

    def _join(self) -> None:
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()

    def _share(self, batch: Batch) -> Batch:
        return batch[self.rank :: self.processes]

    def _sum(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item()

    def _wait(self) -> None:
        dist.barrier()


class SpreadAdapterLoop(_SpreadLoop, AdapterLoop):
    """Train an adapter that every process has in full, on a base that is sharded.

    Adapter and optimizer stay the same in all processes, because they average their gradients. The
    weights of a base layer are gathered only while that layer computes.
    """

    same_optimizer = True

    def __init__(self, *arguments: Any) -> None:
        self._join()
        super().__init__(*arguments)

    def _clip(self) -> float:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= self.processes
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, together.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))
        return super()._clip()

    def save_weights(self, folder: Path) -> None:
        if self.rank == 0:
            super().save_weights(folder)


class ShardedLoop(_SpreadLoop, FullLoop):
    """Train all weights, of each of which every process has a part.

    The optimizer of a process treats its parts as separate weights. AdamW gives the same result as
    in one process; SOAP preconditions each part separately.
    """

    def __init__(
        self,
        model: Any,
        shell: Any,
        tokenizer: PreTrainedTokenizerBase,
        spec: TrainingSpec,
        steps: int,
    ) -> None:
        self._join()
        self.shell = shell
        super().__init__(model, tokenizer, spec.settings, steps)

    def _local(self, trained: list[Any]) -> list[torch.Tensor]:
        self.sharded = trained
        # A small weight may have no part in the last processes.
        self.with_part = [weight for weight in trained if weight.to_local().numel()]
        return [weight.to_local().detach() for weight in self.with_part]

    def _forward(self) -> AbstractContextManager[Any]:
        return nullcontext()  # FSDP casts the weights.

    def _clip(self) -> float:
        for part, weight in zip(self.weights, self.with_part, strict=True):
            part.data = weight.to_local().detach()  # FSDP may have moved it.
            part.grad = weight.grad.to_local()
        gradients = [part.grad for part in self.weights if part.grad is not None]
        norm = math.sqrt(self._sum(sum(float(g.double().square().sum()) for g in gradients)))
        torch.nn.utils.clip_grads_with_norm_(
            self.weights, self.settings.max_grad_norm, torch.tensor(norm, device=self.device)
        )
        return norm

    def _zero(self) -> None:
        super()._zero()
        self.model.zero_grad(set_to_none=True)

    def save_weights(self, folder: Path) -> None:
        whole = get_model_state_dict(
            self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        if self.rank:
            return
        save_model(self.shell, self.tokenizer, whole, self.settings.precision, folder)

    def extra_state(self) -> dict[str, Any]:
        return {"parts": [weight.to_local().detach() for weight in self.sharded]}

    def load_weights(self, folder: Path, extra: dict[str, Any]) -> None:
        with torch.no_grad():
            for weight, part in zip(self.sharded, extra["parts"], strict=True):
                weight.to_local().copy_(part)
