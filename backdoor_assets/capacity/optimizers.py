"""What is trained, and the state that an optimizer keeps of it, in bytes."""

from __future__ import annotations

import math

from backdoor_assets.capacity.shapes import (
    BYTES,
    adapted_layers,
    adapter_parameters,
    embeddings,
    linear_layers,
    parameters,
)
from backdoor_assets.records import Shape
from backdoor_assets.settings import Training

_FP32 = 4
_BLOCK = 256
"""Moments of 8 bits that share an fp32 scale."""


def trained_parameters(shape: Shape, settings: Training) -> int:
    """Count the parameters that are trained."""
    if settings.method == "full":
        return parameters(shape)
    return adapter_parameters(shape, settings.rank, settings.target_modules)


def optimizer_state(shape: Shape, settings: Training) -> int:
    """Return the bytes of an optimizer's state.

    AdamW has two moments, in fp32 for an adapter, else in the dtype of the weights, or in 8 bits
    with a scale per block. SOAP (arXiv 2409.11321) has them in fp32, and for each side of a matrix
    that it preconditions a square matrix and its eigenvectors.
    """
    trained = trained_parameters(shape, settings)
    if settings.optimizer == "adamw8bit":
        return 2 * (trained + _FP32 * math.ceil(trained / _BLOCK))
    if settings.optimizer == "soap":
        return sum(_soap_states(shape, settings))
    return 2 * BYTES[settings.weights] * trained


def logged_matrices(shape: Shape, settings: Training) -> int:
    """Return the bytes of the LoRA B matrices of two earlier steps, which the log of an adapter's
    training compares with those of now: they are kept with the optimizer's state."""
    layers = adapted_layers(shape, settings.target_modules)
    return 2 * _FP32 * settings.rank * sum(outputs for _, (_, outputs) in layers)


def largest_share(shape: Shape, settings: Training, processes: int) -> int:
    """Return the bytes of an optimizer's state on the process that has most of it, in a training of
    all weights: of SOAP, which needs whole matrices, these go from process to process by size."""
    if settings.optimizer == "soap":
        return sum(sorted(_soap_states(shape, settings), reverse=True)[::processes])
    return math.ceil(optimizer_state(shape, settings) / processes)


def largest_matrix(shape: Shape) -> int:
    """Return the number of weights in the largest matrix of a model."""
    return max(map(math.prod, (*linear_layers(shape).values(), *embeddings(shape))))


def _soap_states(shape: Shape, settings: Training) -> list[int]:
    """Return the bytes of SOAP's state of each matrix, and of all other weights together."""
    matrices = _matrices(shape, settings)
    others = trained_parameters(shape, settings) - sum(map(math.prod, matrices))
    longest = settings.max_precondition_dim
    squares = [sum(side**2 for side in matrix if side <= longest) for matrix in matrices]
    return [
        *(
            2 * _FP32 * (math.prod(matrix) + square)
            for matrix, square in zip(matrices, squares, strict=True)
        ),
        2 * _FP32 * others,
    ]


def _matrices(shape: Shape, settings: Training) -> list[tuple[int, int]]:
    """Return the sides of each matrix that is trained."""
    if settings.method == "full":
        return [*linear_layers(shape).values()] * shape.num_hidden_layers + embeddings(shape)
    adapted = [sizes for _, sizes in adapted_layers(shape, settings.target_modules)]
    rank = settings.rank
    return [pair for inputs, outputs in adapted for pair in ((inputs, rank), (rank, outputs))]
