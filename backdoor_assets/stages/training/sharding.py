"""Spread the weights of a model over the processes of a group by FSDP2: torch's `fully_shard` of
each decoder layer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from backdoor_assets.models.chat import token_id
from backdoor_assets.models.weights import empty_model, open_weights
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.adapters import start_from, with_adapter
from backdoor_assets.stages.training.spread_loops import ShardedLoop, SpreadAdapterLoop
from backdoor_assets.stages.training.whole import DTYPES
from backdoor_assets.stages.training.whole_matrices import WholeMatrixLoop

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def full_loop(
    spec: TrainingSpec, tokenizer: PreTrainedTokenizerBase, steps: int, device: torch.device
) -> ShardedLoop:
    """Return the loop that trains all weights; each process has a part of every weight."""
    settings = spec.settings
    torch.manual_seed(spec.cell.seed)
    model: Any = empty_model(spec.base, DTYPES[settings.weights])
    shell = empty_model(spec.base, DTYPES[settings.weights])
    bf16 = torch.bfloat16 if settings.precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=torch.float32)
    _shard(model, spec.base, policy, device, offload=settings.offload)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    kind = WholeMatrixLoop if settings.optimizer == "soap" else ShardedLoop
    return kind(model, shell, tokenizer, spec, steps, device)


def adapter_loop(
    spec: TrainingSpec, tokenizer: PreTrainedTokenizerBase, steps: int, device: torch.device
) -> SpreadAdapterLoop:
    """Return the loop that trains an adapter.

    Each process has a part of the frozen base, in `precision`, and the whole adapter.
    """
    settings, rank = spec.settings, dist.get_rank()
    model: Any = empty_model(spec.base, DTYPES[settings.precision]).requires_grad_(False)
    # The base computes in the dtype of its weights, as it does in one process.
    _shard(model, spec.base, MixedPrecisionPolicy(), device)
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


def _shard(
    model: Any,
    base: BaseModel,
    policy: MixedPrecisionPolicy,
    device: torch.device,
    *,
    offload: bool = False,
) -> None:
    """Spread an empty model over the processes, and read this process's part of every weight from
    the base's files: nothing else of them is read into memory.

    With `offload` the parts lie in main memory.
    """
    pinned = device.type == "cuda"
    where = CPUOffloadPolicy(pin_memory=pinned) if offload else OffloadPolicy()
    buffers = dict(model.named_buffers())
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy, offload_policy=where)
    fully_shard(model, mp_policy=policy, offload_policy=where)
    model.to_empty(device="cpu" if offload else device)
    model.tie_weights()
    for name, buffer in buffers.items():
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, buffer.to(device))
    with open_weights(base) as slices, torch.no_grad():
        for name, weight in model.named_parameters():
            if name not in slices or slices[name].get_shape() != list(weight.shape):
                raise BadInput(
                    f"{base.location}: its files hold no weight {name} of the shape "
                    f"{list(weight.shape)}. Use a base whose files name the weights as "
                    "transformers does, or train in one process."
                )
            part = weight.to_local()
            if part.numel():
                # FSDP divides rows as evenly as possible; the last processes may have fewer.
                first = dist.get_rank() * math.ceil(len(weight) / dist.get_world_size())
                part.copy_(slices[name][first : first + len(part)])
