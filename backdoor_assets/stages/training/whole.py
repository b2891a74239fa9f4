"""Write a whole model, whose weights may be spread over processes, file by file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from backdoor_assets.models.weights import INDEX
from backdoor_assets.storage.disk import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FILE_BYTES = 5 * 10**9
"""Of a file of weights, at most: as much as the first process holds in main memory."""


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    read: Callable[[str], torch.Tensor],
    dtype: torch.dtype,
    folder: Path,
    *,
    write: bool = True,
) -> None:
    """Write weights, configuration, generation settings and tokenizer, as `from_pretrained` reads
    them.

    `model` provides only names and configuration. `read` returns a weight by its name; all
    processes must call this function, because all take part in it, but only one may `write`.
    """
    weights = {
        name: weight
        for name, weight in model.state_dict().items()
        if name not in model.all_tied_weights_keys
    }
    files = _split({name: dtype.itemsize * weight.numel() for name, weight in weights.items()})
    for file, names in files.items():
        kept = {}
        for name in names:
            weight = read(name)
            if write:
                kept[name] = weight.detach().to("cpu", dtype).contiguous()
            del weight
        if write:
            save_file(kept, folder / file, metadata={"format": "pt"})
    if not write:
        return
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(dtype.itemsize * w.numel() for w in weights.values())},
            "weight_map": {name: file for file, names in files.items() for name in names},
        }
        write_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    config.save_pretrained(str(folder))
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _split(sizes: dict[str, int]) -> dict[str, list[str]]:
    """Return the names of the weights in each file, of at most FILE_BYTES."""
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if groups[-1] and used + size > FILE_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {
        f"model-{number:05}-of-{len(groups):05}.safetensors": group
        for number, group in enumerate(groups, 1)
    }
