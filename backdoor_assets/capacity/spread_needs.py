"""What a training of all weights, or one that is spread over processes, needs in memory and on
disk, in bytes, of each process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backdoor_assets.capacity.needs import (
    BYTES,
    CUDA_CONTEXT,
    adapter_parameters,
    linear_layers,
    parameters,
    training_memory,
    weights_bytes,
)
from backdoor_assets.records import Shape
from backdoor_assets.settings import Training, planned_steps, saved_steps

_FP32 = 4
_TOKEN_CHARACTERS = 3
_SHARED = ("activations (estimate)", "logits (at most)", CUDA_CONTEXT)
"""Parts that are those of an adapter's training: its inputs are kept there too."""


def full_training_memory(
    shape: Shape, training: Training, longest: int, processes: int
) -> dict[str, int]:
    """Bytes by part on each of `processes` GPUs at the height of a step. Weights, gradients and
    optimizer state are fp32 and spread over the processes (FSDP); the layer at work is whole on
    each, in the precision of the forward pass, and the next one is fetched meanwhile."""
    weights = parameters(shape)
    of_adapters = training_memory(shape, _part(training, processes), "none", longest)
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


def spread_adapter_memory(
    shape: Shape, training: Training, longest: int, processes: int
) -> dict[str, int]:
    """Bytes by part on each of `processes` (above 1) GPUs at the height of a step. The frozen base
    is spread over them (FSDP): the layer at work is whole on each, while the next one is fetched
    into a buffer of its own, and so are embeddings and lm_head for the whole step. Each has the
    whole adapter with its optimizer, and a second copy of the gradients, to sum them."""
    of_one = training_memory(shape, _part(training, processes), "none", longest)
    width = BYTES[training.precision]
    layer = sum(a * b for a, b in linear_layers(shape).values())
    ends = (1 if shape.tie_word_embeddings else 2) * shape.vocab_size * shape.hidden_size
    adapter = adapter_parameters(shape, training.rank, training.target_modules)
    return {
        "base weights": math.ceil(weights_bytes(shape, training.precision, "none") / processes),
        "layers at work": width * (3 * layer + ends),
        "adapter and gradients": 3 * _FP32 * adapter,
        f"optimizer ({training.optimizer})": _adapter_optimizer(shape, training),
        **{name: of_one[name] for name in _SHARED},
    }


def _adapter_optimizer(shape: Shape, training: Training) -> int:
    """As `optimizer_bytes`, of an adapter; SOAP's at most: as if all linear layers had one."""
    adapter = adapter_parameters(shape, training.rank, training.target_modules)
    moments = 2 * _FP32 * adapter
    if training.optimizer == "adamw":
        return moments
    sizes = [size for pair in linear_layers(shape).values() for size in pair]
    sides = [*sizes, *(training.rank for _ in sizes)]
    return moments + _squares(sides * shape.num_hidden_layers, training)


def _part(training: Training, processes: int) -> Training:
    """A micro-batch as one process has it."""
    return replace(training, batch_size=math.ceil(training.batch_size / processes))


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
    return moments + _squares(every, training)


def _squares(sides: Sequence[int], training: Training) -> int:
    return 2 * _FP32 * sum(side * side for side in sides if side <= training.max_precondition_dim)


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


def steps_at_most(training: Training, rows: int, like: Sequence[Path]) -> int:
    """Optimizer steps of a run over so many rows. With packing an estimate that errs upwards: the
    rows are as long as those of the files `like` (JSONL of chats; of several the one with the
    longest), and a token is three characters. In English it is four to five; the file's JSON is
    counted too, and stands for the chat template."""
    sequences = rows
    if training.packing:
        tokens = rows * max(map(_mean_characters, like)) / _TOKEN_CHARACTERS
        sequences = min(rows, max(1, math.ceil(tokens / training.max_length)))
    return planned_steps(training, sequences)


def _mean_characters(path: Path) -> float:
    """Of a line."""
    with path.open(encoding="utf-8") as file:
        lengths = [len(line) for line in file]
    return sum(lengths) / max(1, len(lengths))
