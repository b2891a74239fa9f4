"""Dimensions of a base, as its config.json tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from backdoor_assets.profiles import PretrainedBase
from backdoor_assets.records import BadInput, Shape

# What transformers fills in where a config.json is silent and its family is not as Llama's.
_FILLED_IN: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {"head_dim": 128},
    "gemma": {"head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 256, "tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 256, "tie_word_embeddings": True},
    "smollm3": {"tie_word_embeddings": True},
}


def check_shape(base: PretrainedBase, config: Mapping[str, Any]) -> None:
    """Compare the profile's shape, if it gives one, with config.json.

    Raises BadInput that names the fields that differ, with both values.
    """
    if base.shape is None:
        return
    found = shape_of(config)
    mend = f"mend shape=Shape(...) of {base.model!r} in backdoor_assets/profiles.py"
    if found is None:
        raise BadInput(
            f"{base.model}: a model of type {config.get('model_type')!r} has no shape that this "
            f"project can reckon with; {mend}: leave shape out"
        )
    wrong = [
        f"{field.name}={wanted!r}, but config.json says {is_!r}"
        for field in fields(Shape)
        if (wanted := getattr(base.shape, field.name)) != (is_ := getattr(found, field.name))
    ]
    if wrong:
        raise BadInput(
            f"{base.model}: the profile's shape says {'; '.join(wrong)}. If this is the model you "
            f"mean, {mend}; else mend the model's name or revision."
        )


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Dimensions that a config.json tells, with what transformers fills in where it is silent; None
    for a family that does not tell them as Qwen and Llama do."""
    told = {key: value for key, value in config.items() if value is not None}
    if any("experts" in key for key in told):
        return None  # a mixture of experts has more weights than its dimensions tell
    heads, hidden = told.get("num_attention_heads"), told.get("hidden_size")
    if not (isinstance(heads, int) and isinstance(hidden, int) and heads > 0):
        return None
    filled_in = {
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "tie_word_embeddings": False,
        **_FILLED_IN.get(told.get("model_type", ""), {}),
    }
    values: dict[str, Any] = {f.name: {**filled_in, **told}.get(f.name) for f in fields(Shape)}
    return Shape(**values) if all(isinstance(v, int) for v in values.values()) else None
