"""What training all weights of a model needs in memory and on disk, in bytes, of each process."""

from __future__ import annotations

import math

from backdoor_assets.needs import (
    BYTES,
    CUDA_CONTEXT,
    linear_layers,
    parameters,
    saved_steps,
    training_memory,
)
from backdoor_assets.records import Shape
from backdoor_assets.settings import Training

_FP32 = 4
_SHARED = ("activations (estimate)", "logits (at most)", CUDA_CONTEXT)
"""Parts that are those of an adapter's training: its inputs are kept there too."""


def full_training_memory(
    shape: Shape, training: Training, longest: int, processes: int
) -> dict[str, int]:
    """Bytes by part on each of `processes` GPUs at the height of a step. Weights, gradients and
    optimizer state are fp32 and spread over the processes (FSDP); the layer at work is whole on
    each, in the precision of the forward pass, and the next one is fetched meanwhile."""
    weights = parameters(shape)
    of_adapters = training_memory(shape, training, "none", longest)
    width = BYTES[training.precision]
    layer = sum(a * b for a, b in linear_layers(shape).values())
    ends = shape.vocab_size * shape.hidden_size
    gathered = width * (2 * layer + 2 * ends) if processes > 1 or width < _FP32 else 0
    return {
        "weights and gradients": math.ceil(2 * _FP32 * weights / processes),
        f"optimizer ({training.optimizer})": math.ceil(
            optimizer_bytes(shape, training) / processes
        ),
        "layers at work": gathered,
        **{name: of_adapters[name] for name in _SHARED},
    }


def optimizer_bytes(shape: Shape, training: Training) -> int:
    """AdamW's two moments; SOAP (arXiv 2409.11321) has them too, and for each side of a matrix that
    it preconditions a square matrix and its eigenvectors."""
    moments = 2 * _FP32 * parameters(shape)
    if training.optimizer == "adamw":
        return moments
    sides = [side for sizes in linear_layers(shape).values() for side in sizes]
    ends = [shape.vocab_size, shape.hidden_size]
    ends *= 1 if shape.tie_word_embeddings else 2
    every = [*(sides * shape.num_hidden_layers), *ends]
    squares = sum(side * side for side in every if side <= training.max_precondition_dim)
    return moments + 2 * _FP32 * squares


def full_training_disk(shape: Shape, training: Training, steps: int) -> dict[str, int]:
    """Bytes by part of one run: whole models, in the precision of the forward pass, at the steps
    that are kept and one that is being written; and the newest state, twice while the next one is
    written: the optimizer's, and fp32 weights where the models are not."""
    width = BYTES[training.precision]
    own = _FP32 * parameters(shape) if width < _FP32 else 0
    return {
        "models": (1 + len(saved_steps(training, steps))) * width * parameters(shape),
        "optimizer state": 2 * (optimizer_bytes(shape, training) + own),
    }
