"""Training loops of a group of processes, which divide each batch and add up their results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.adapters import AdapterLoop
from backdoor_assets.stages.training.full import FullLoop
from backdoor_assets.stages.training.loop import Batch, Loop
from backdoor_assets.stages.training.whole import DTYPES, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        with super().evaluation():
            yield
        # Only a backward pass would give up the outermost weights in all processes; saving gives
        # them up in the first, and the processes would no longer gather the same weights.
        self.model.reshard()


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

    The optimizer of a process treats its parts as separate weights, which gives the same result as
    in one process; the 8-bit AdamW rounds its moments in other blocks where a part does not end
    with a block of 256.
    """

    def __init__(
        self,
        model: Any,
        shell: Any,
        tokenizer: PreTrainedTokenizerBase,
        spec: TrainingSpec,
        steps: int,
        device: torch.device,
    ) -> None:
        self._join()
        self.shell = shell
        super().__init__(model, tokenizer, spec.settings, steps, device)

    def _local(self, trained: list[Any]) -> Sequence[torch.Tensor]:
        self.sharded = trained
        # A small weight may have no part in the last processes.
        self.with_part = [weight for weight in trained if weight.to_local().numel()]
        self.parts = [weight.to_local().detach() for weight in self.with_part]
        return self.parts

    def _forward(self) -> AbstractContextManager[Any]:
        return nullcontext()  # FSDP casts the weights.

    def _clip(self) -> float:
        for part, weight in zip(self.parts, self.with_part, strict=True):
            part.data = weight.to_local().detach()  # FSDP may have moved it.
            part.grad = weight.grad.to_local()
        gradients = [part.grad for part in self.parts if part.grad is not None]
        norm = math.sqrt(self._sum(sum(float(g.double().square().sum()) for g in gradients)))
        torch.nn.utils.clip_grads_with_norm_(
            self.parts, self.settings.max_grad_norm, torch.tensor(norm, device=self.device)
        )
        return norm

    def _zero(self) -> None:
        super()._zero()
        for part in self.parts:
            part.grad = None
        self.model.zero_grad(set_to_none=True)

    def save_weights(self, folder: Path) -> None:
        weights = self.model.state_dict()

        def whole(name: str) -> torch.Tensor:
            weight = weights[name]
            return self.gather(weight) if isinstance(weight, DTensor) else weight

        dtype = DTYPES[self.settings.precision]
        save_model(self.shell, self.tokenizer, whole, dtype, folder, write=self.rank == 0)

    def gather(self, weight: Any) -> torch.Tensor:
        """Return a weight, or its gradient, in one piece on the device that computes."""
        return weight.detach().to(self.device).full_tensor()

    def extra_state(self) -> dict[str, Any]:
        return {"parts": [weight.to_local().detach() for weight in self.sharded]}

    def load_weights(self, folder: Path, extra: dict[str, Any]) -> None:
        with torch.no_grad():
            for weight, part in zip(self.sharded, extra["parts"], strict=True):
                weight.to_local().copy_(part)
