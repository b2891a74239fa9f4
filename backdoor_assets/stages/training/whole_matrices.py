"""Training of all weights, spread over processes, with an optimizer that needs whole matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from backdoor_assets.stages.training.spread_loops import ShardedLoop


class WholeMatrixLoop(ShardedLoop):
    """Train all weights with an optimizer that needs each matrix in one piece, such as SOAP.

    Each matrix belongs to one process, which has its optimizer state, and at each step gathers
    weight and gradient, in fp32, and sends the new weight to all. Weights are taken by size, so
    that the processes step on matrices of one size at a time and have as much of the state.
    """

    def _local(self, trained: list[Any]) -> Sequence[torch.Tensor]:
        super()._local(trained)
        by_size = sorted(trained, key=lambda weight: -weight.numel())
        self.rounds = [
            by_size[first : first + self.processes]
            for first in range(0, len(by_size), self.processes)
        ]
        # Without values until its turn; where they lie, the optimizer's state is loaded to.
        self.rest = torch.empty(0, device="cpu" if self.settings.offload else self.device)
        self.owned = [
            torch.nn.Parameter(self.rest.clone())
            for weights in self.rounds
            if self.rank < len(weights)
        ]
        return self.owned

    def _update(self) -> None:
        for number, weights in enumerate(self.rounds):
            own: torch.nn.Parameter | None = None
            for owner, weight in enumerate(weights):
                value, gradient = self.gather(weight), self.gather(weight.grad)
                if owner == self.rank:
                    own = self.owned[number]
                    own.data = value
                    own.grad = gradient
                del value, gradient
            if own is not None:
                self._step(own)
            for owner, weight in enumerate(weights):
                if owner == self.rank:
                    assert own is not None
                    value = own.data
                else:
                    value = torch.empty(weight.shape, dtype=weight.dtype, device=self.device)
                dist.broadcast(value, owner)
                part = weight.to_local().detach()
                first = self.rank * math.ceil(len(weight) / self.processes)
                part.copy_(value[first : first + len(part)])
            if own is not None:
                own.grad = None
                own.data = self.rest.clone()

    def _step(self, own: torch.nn.Parameter) -> None:
        """Step on one matrix: it alone has a gradient."""
        [group] = self.optimizer.param_groups
        group["step"] = len(self.log)  # SOAP counts calls.
        state = self.optimizer.state[own]
        if self.settings.offload:
            _move(state, self.device)
        self.optimizer.step()
        if self.settings.offload:
            _move(state, torch.device("cpu"))


def _move(state: dict[str, Any], device: torch.device) -> None:
    """Move an optimizer's state of one weight, in tensors and lists of tensors."""
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            state[name] = value.to(device)
        elif isinstance(value, list):
            state[name] = [v.to(device) if isinstance(v, torch.Tensor) else v for v in value]
