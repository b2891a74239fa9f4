"""Dimensions of a base: as its config.json gives them, and the parameters they amount to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from backdoor_assets.records import BadInput, Quantization, Shape
from backdoor_assets.settings import PretrainedBase

BYTES = {"fp32": 4, "bf16": 2}
"""Of a weight in each precision."""

# What transformers fills in where a config.json is silent and its family differs from Llama's.
_FILLED_IN: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {"head_dim": 128},
    "gemma": {"head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 256, "tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 256, "tie_word_embeddings": True},
    "smollm3": {"tie_word_embeddings": True},
}
_QUERY_KEY_NORMS = {"qwen3", "gemma3_text"}
"""Values of model_type whose attention normalizes queries and keys, head by head."""


def check_shape(base: PretrainedBase, config: Mapping[str, Any]) -> None:
    """Compare the profile's shape, if it gives one, with config.json.

    Raises BadInput that names the fields that differ, with both values.
    """
    if base.shape is None:
        return
    found = shape_of(config)
    fix = f"correct shape=Shape(...) of {base.model!r} in backdoor_assets/base_models.py"
    if found is None:
        raise BadInput(
            f"{base.model}: this project cannot estimate the memory of a model of type "
            f"{config.get('model_type')!r}; leave shape out of its base in "
            "backdoor_assets/base_models.py"
        )
    wrong = [
        f"{field.name}={expected!r}, but config.json says {actual!r}"
        for field in fields(Shape)
        if (expected := getattr(base.shape, field.name)) != (actual := getattr(found, field.name))
    ]
    if wrong:
        raise BadInput(
            f"{base.model}: the profile's shape says {'; '.join(wrong)}. If this is the model you "
            f"mean, {fix}; if not, correct the model's name or revision."
        )


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Return the dimensions in a config.json, with what transformers fills in where it is silent;
    None for a family that does not describe them as Qwen and Llama do."""
    given = {key: value for key, value in config.items() if value is not None}
    if any("experts" in key for key in given):
        return None  # A mixture of experts has more weights than these dimensions show.
    heads, hidden = given.get("num_attention_heads"), given.get("hidden_size")
    if not (isinstance(heads, int) and isinstance(hidden, int) and heads > 0):
        return None
    family = given.get("model_type", "")
    known = {
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "tie_word_embeddings": False,
        **_FILLED_IN.get(family, {}),
        **given,
        "query_key_norms": family in _QUERY_KEY_NORMS,
    }
    values: dict[str, Any] = {field.name: known.get(field.name) for field in fields(Shape)}
    return Shape(**values) if all(isinstance(v, int) for v in values.values()) else None


def linear_layers(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of each linear layer of one decoder layer, by its path in there."""
    hidden, feed_forward = shape.hidden_size, shape.intermediate_size
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, feed_forward),
        "mlp.up_proj": (hidden, feed_forward),
        "mlp.down_proj": (feed_forward, hidden),
    }


def linear_parameters(shape: Shape) -> int:
    """Count the weights of the linear layers of one decoder layer."""
    return sum(inputs * outputs for inputs, outputs in linear_layers(shape).values())


def embeddings(shape: Shape) -> list[tuple[int, int]]:
    """Return (vocabulary, hidden size) of the embeddings, and of lm_head unless it is tied."""
    return [(shape.vocab_size, shape.hidden_size)] * (1 if shape.tie_word_embeddings else 2)


def norm_parameters(shape: Shape) -> int:
    """Count two RMSNorms per layer, those of queries and keys, and the final one."""
    heads = 2 * shape.head_dim if shape.query_key_norms else 0
    return shape.num_hidden_layers * (2 * shape.hidden_size + heads) + shape.hidden_size


def end_parameters(shape: Shape) -> int:
    """Count the weights of embeddings and lm_head."""
    return sum(rows * columns for rows, columns in embeddings(shape))


def parameters(shape: Shape) -> int:
    """Count all parameters. Exact for Qwen3 and Llama."""
    layers = shape.num_hidden_layers * linear_parameters(shape)
    return layers + end_parameters(shape) + norm_parameters(shape)


def adapted_layers(
    shape: Shape, modules: str | tuple[str, ...]
) -> list[tuple[str, tuple[int, int]]]:
    """Return (path in its layer, (inputs, outputs)) of every linear layer that gets an adapter.

    `modules` is read as peft does: names are ends of a path, a string is a regular expression of
    the whole path; "all-linear" leaves lm_head out. Raises BadInput for names that do not exist.
    """
    layers = linear_layers(shape)
    names = [path.split(".")[-1] for path in layers]

    def matches(path: str) -> bool:
        if isinstance(modules, str):
            return modules == "all-linear" or re.fullmatch(modules, path) is not None
        return path.split(".")[-1] in modules

    found = [
        (name, sizes)
        for layer in range(shape.num_hidden_layers)
        for name, sizes in layers.items()
        if matches(f"model.layers.{layer}.{name}")
    ]
    if not found or (not isinstance(modules, str) and set(modules) - set(names)):
        raise BadInput(
            f"training.target_modules={modules!r}: not all of it is a linear layer of this "
            f"family; there are {', '.join(names)}, or 'all-linear' for all of them"
        )
    return found


def adapter_parameters(shape: Shape, rank: int, modules: str | tuple[str, ...]) -> int:
    """Count one LoRA adapter: rank x (inputs + outputs) for each linear layer that has one."""
    return sum(rank * sum(sizes) for _, sizes in adapted_layers(shape, modules))


def weights_bytes(
    shape: Shape, precision: str, quantization: Quantization, *, plain_scales: bool = False
) -> int:
    """Return the bytes of the base in memory. bitsandbytes quantizes the linear layers of the
    decoder, and nothing else: LLM.int8 keeps one byte per weight and an fp32 scale per output row;
    NF4 half a byte and a scale per block of 64 weights, which takes one byte and an fp32 scale of
    its own per 256 (double quantization), or 4 bytes where vLLM unpacks it (`plain_scales`)."""
    width, layer = BYTES[precision], 0
    for inputs, outputs in linear_layers(shape).values():
        weights = inputs * outputs
        blocks = math.ceil(weights / 64)
        scales = 4 * blocks if plain_scales else blocks + 4 * math.ceil(blocks / 256)
        layer += {
            "none": width * weights,
            "8bit": weights + 4 * outputs,
            "4bit": math.ceil(weights / 2) + scales,
        }[quantization]
    others = end_parameters(shape) + norm_parameters(shape)
    return shape.num_hidden_layers * layer + width * others
