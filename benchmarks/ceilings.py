"""What a device could do at best: measured, then reckoned for a model's shape.

The two ceilings leave out what is small, always to the effect that the ceiling is too high and the
share of it that is reached too low: attention scores, norms, softmax, KV cache, activations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from backdoor_assets.capacity.memory import BYTES, weights_bytes
from backdoor_assets.capacity.shapes import adapter_parameters, linear_parameters
from backdoor_assets.profiles import Training
from backdoor_assets.records import Quantization, Shape

TRAINING_NOTE = (
    "A step takes no less than the larger of its arithmetic and its reading. Arithmetic, with N "
    "weights in the linear layers of the decoder: 2 N operations a token forward and 2 N backward "
    "(through the frozen weights to the activations; they get no gradient of their own), 6 for "
    "each LoRA weight and token, 4 for each weight of the output layer and token of the loss; "
    "divided by the rate of the large matrix product that was measured. Reading: the weights once "
    "forward and once backward, divided by the measured bandwidth. Padding, attention scores, the "
    "optimizer and checkpoints count as nothing."
)
SAMPLING_NOTE = (
    "A decoding step reads each weight once (of the input embeddings only the rows it needs) for "
    "all answers of a batch together: it takes no less than the weights' bytes divided by the "
    "measured bandwidth, and tokens a second are at most the batch divided by that. Prefill, KV "
    "cache, adapters and arithmetic count as nothing."
)


@dataclass(frozen=True)
class Device:
    """What was measured on it."""

    flops: float
    """Multiplications and additions a second, best of several large matrix products."""
    bandwidth: float
    """Bytes a second read and written, best of several copies."""
    matrix: int
    """Rows and columns of the product's matrices."""
    copied_bytes: int


def measure_device(dtype: torch.dtype, device: torch.device) -> Device:
    gpu = device.type == "cuda"
    size, copied = (8192, 2**31) if gpu else (1024, 2**27)
    # A CPU without instructions for bf16 is faster in fp32.
    dtypes = (dtype,) if gpu else (dtype, torch.float32)
    product = min(_product(size, kind, device) for kind in dtypes)
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = _best_seconds(lambda: target.copy_(source), device)
    return Device(2 * size**3 / product, 2 * copied / copy, size, copied)


def _product(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of a product of square matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return _best_seconds(lambda: torch.mm(a, b, out=out), device)


def _best_seconds(work: Callable[[], Any], device: torch.device, repeats: int = 20) -> float:
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Weights:
    """Of a decoder, by what is done with them."""

    linear: int
    """Number in the linear layers of the decoder's blocks."""
    output: int
    """Number in the output layer, which may be the input embeddings."""
    lora: int
    """Number in an adapter on all linear layers."""
    read_bytes: int
    """What a forward pass reads: all but the input embeddings."""

    @classmethod
    def of(cls, shape: Shape, training: Training, quantization: Quantization) -> Weights:
        output = shape.vocab_size * shape.hidden_size
        looked_up = 0 if shape.tie_word_embeddings else BYTES[training.precision] * output
        return cls(
            linear=shape.num_hidden_layers * linear_parameters(shape),
            output=output,
            lora=adapter_parameters(shape, training.rank, training.target_modules),
            read_bytes=weights_bytes(shape, training.precision, quantization) - looked_up,
        )


def training_ceiling(
    device: Device, weights: Weights, tokens: float, counted: float
) -> dict[str, Any]:
    """Of a step over `tokens` tokens, `counted` of them in the loss."""
    operations = tokens * (4 * weights.linear + 6 * weights.lora) + counted * 4 * weights.output
    arithmetic = operations / device.flops
    reading = 2 * weights.read_bytes / device.bandwidth
    least = max(arithmetic, reading)
    return {
        "how": TRAINING_NOTE,
        "operations_a_step": operations,
        "arithmetic_s": arithmetic,
        "reading_s": reading,
        "bound_by": "arithmetic" if arithmetic > reading else "reading the weights",
        "step_s": least,
        "tokens_per_s": tokens / least,
    }


def sampling_ceiling(device: Device, weights: Weights, batch: int) -> dict[str, Any]:
    least = weights.read_bytes / device.bandwidth
    return {"how": SAMPLING_NOTE, "step_s": least, "tokens_per_s": batch / least}
