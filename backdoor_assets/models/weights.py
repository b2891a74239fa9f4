"""Read weights of a model from its files, one at a time or in part, without building the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.models.chat import first_line
from backdoor_assets.records import BadInput, BaseModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

INDEX = "model.safetensors.index.json"


def model_folder(base: BaseModel) -> Path:
    """Return the folder of a base, which is downloaded if it is named by its hub id."""
    if Path(base.location).is_dir():
        return Path(base.location)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(base.location, revision=base.revision))


def weight_files(folder: Path) -> dict[Path, list[str]]:
    """Return the names of the weights in each safetensors file of a model. Raises BadInput for a
    folder without such files, or with a damaged one."""
    from safetensors import SafetensorError, safe_open

    names: dict[Path, list[str]] = {}
    try:
        if (folder / INDEX).exists():
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            paths = sorted({folder / name for name in index["weight_map"].values()})
        else:
            paths = sorted(folder.glob("*.safetensors"))
        for path in paths:
            with safe_open(path, framework="pt") as file:
                names[path] = list(file.keys())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadInput(
            f"{folder}: its weights cannot be read ({first_line(error)}). Download or make this "
            "model again."
        ) from error
    if not names:
        raise BadInput(
            f"{folder}: no base model can be loaded from this location: it has no weights in "
            "safetensors files."
        )
    return names


@contextmanager
def open_weights(base: BaseModel) -> Iterator[dict[str, Any]]:
    """Open the files of a base, and return a slice of each weight by its name, of which nothing is
    read before it is indexed."""
    from safetensors import safe_open

    with ExitStack() as stack:
        slices: dict[str, Any] = {}
        for path, names in weight_files(model_folder(base)).items():
            file = stack.enter_context(safe_open(path, framework="pt"))
            slices |= {name: file.get_slice(name) for name in names}
        yield slices


def empty_model(base: BaseModel, dtype: torch.dtype) -> PreTrainedModel:
    """Build a base without its weights, on the meta device. Buffers that are in no file, such as
    the frequencies of rotary positions, are computed, in main memory."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    source: dict[str, Any] = {"revision": base.revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(base.location, **source)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{base.location}: no base model can be loaded from this location "
            f"({first_line(error)})."
        ) from error
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with suppress(OSError):  # The file is optional: the model has settings of its own.
        model.generation_config = GenerationConfig.from_pretrained(base.location, **source)
    return model
