"""Hours of GPUs or CPU cores that a study takes, and on the clock with several of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from backdoor_assets.capacity.shapes import parameters
from backdoor_assets.host import Host
from backdoor_assets.records import Shape
from backdoor_assets.reporting.text import Line

DEVICES = 1, 4, 8
"""Numbers of devices for which hours on the clock are given."""


@dataclass(frozen=True)
class Rate:
    """What is assumed of one device, in floating-point operations per second."""

    device: str
    training: float
    sampling: float
    step: float
    """Seconds that a training step takes however few tokens it has."""
    source: str


GPU = Rate("GPU", 400e12, 100e12, 0.25, "an H100 or H200, bf16")
"""Some 40 % and 10 % of what it can do."""
CORE = Rate("CPU core", 90e9, 30e9, 0.0, "with AVX512-BF16, from runs of SmolLM2")
LARGE = 10**9
"""Parameters from which on a model is planned for a GPU, wherever the plan is made."""

OPERATIONS = {"full": 6, "lora": 4, "reading": 2}
"""Per weight and token: training of all weights; of an adapter, which needs no gradients of the
frozen weights; a forward pass."""


@dataclass(frozen=True)
class Work:
    """Work of one kind over a whole study."""

    kind: Literal["full", "lora", "scoring", "sampling"]
    tokens: int
    tasks: int
    """Parts that run beside each other; answers of a run are shared out freely instead."""
    devices: int = 1
    """That one part takes together."""
    steps: int = 0
    """Of training."""

    def hours(self, weights: int, rate: Rate) -> float:
        """Return hours of one device."""
        operations = OPERATIONS.get(self.kind, OPERATIONS["reading"]) * weights * self.tokens
        speed = rate.sampling if self.kind == "sampling" else rate.training
        return max(operations / speed, self.steps * rate.step * self.devices) / 3600

    def clock(self, weights: int, rate: Rate, devices: int) -> float:
        """Return hours on the clock with so many devices; infinity if they are too few."""
        groups = devices // self.devices
        if not groups or not self.tasks:
            return math.inf if self.tasks else 0.0
        rounds = math.ceil(self.tasks / groups)
        together = groups if self.kind == "sampling" else self.tasks / rounds
        return self.hours(weights, rate) / (together * self.devices)


def rate_for(shape: Shape, host: Host) -> Rate:
    return GPU if host.gpus or parameters(shape) >= LARGE else CORE


def lines(works: Mapping[str, Work], shape: Shape, rate: Rate) -> Iterator[Line]:
    """Yield tokens, hours of devices and hours on the clock by kind of work; and assumptions."""
    weights = parameters(shape)
    names = [f"on {n}" for n in DEVICES]
    yield "", "tokens", f"{rate.device} hours", *names
    for name, work in works.items():
        clocks = [_hours(work.clock(weights, rate, n)) for n in DEVICES]
        yield name, f"{work.tokens:,}", _hours(work.hours(weights, rate)), *clocks
    total = sum(work.hours(weights, rate) for work in works.values())
    sums = [sum(work.clock(weights, rate, n) for work in works.values()) for n in DEVICES]
    yield "in all", "", _hours(total), *map(_hours, sums)
    unit, size = ("TFLOP/s", 1e12) if rate is GPU else ("GFLOP/s", 1e9)
    yield (
        f"Assumed per {rate.device}: {rate.training / size:.0f} {unit} in training, "
        f"{rate.sampling / size:.0f} in sampling",
    )
    least = f"{rate.step:g} s per training step at least; " if rate.step else ""
    yield (f"({rate.source}); {least}loading and starting are left out.",)
    if math.isinf(sums[0]):
        yield ("-: one part of the work takes more of them together.",)


def _hours(hours: float) -> str:
    return "-" if math.isinf(hours) else f"{hours:,.1f}" if hours >= 1 else f"{hours:.2f}"
