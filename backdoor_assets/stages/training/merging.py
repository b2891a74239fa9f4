"""Merge an adapter into its base, so that training starts from the merged model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from backdoor_assets.models.chat import load_tokenizer
from backdoor_assets.models.weights import INDEX, empty_model, model_folder, weight_files
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.specs import START, TrainingSpec
from backdoor_assets.stages.training.adapters import check_fit, read_adapter
from backdoor_assets.stages.training.texts import read_texts
from backdoor_assets.storage.disk import write_text

_WHOLE = f".{START}"


def merged_start(spec: TrainingSpec, folder: Path) -> TrainingSpec:
    """Write the base with the spec's adapter merged in to `folder/start`, unless it is there, and
    return the spec of a training of that model.

    The adapter is added in fp32, and the sum is saved in the dtype of the base. The model of an
    earlier training of the same recipe is copied, so that its checkpoints stay valid.

    Raises BadInput for an adapter that cannot be read or does not fit the base, and for rows that
    cannot be trained on.
    """
    start = folder / START
    if not start.exists():
        # Rows that cannot be trained on are refused before time is spent on merging.
        read_texts(spec, load_tokenizer(spec.base.location, spec.base.revision))
        temporary = _empty(folder / f".{START}.part")
        if spec.earlier and (spec.earlier / START).is_dir():
            shutil.copytree(spec.earlier / START, temporary, dirs_exist_ok=True)
        else:
            merge(spec, temporary)
        os.replace(temporary, start)
    return replace(spec, base=BaseModel(str(start)), adapter=None, fresh=False)


@contextmanager
def merged_whole(spec: TrainingSpec, folder: Path) -> Iterator[TrainingSpec]:
    """Write the base with the spec's adapter merged in, in fp32, for as long as the processes of a
    training of all weights need it, and return the spec of their training. A killed run finds it
    again."""
    whole = folder / _WHOLE
    if not whole.exists():
        temporary = _empty(folder / f"{_WHOLE}.part")
        merge(spec, temporary, torch.float32)
        os.replace(temporary, whole)
    yield replace(spec, base=BaseModel(str(whole)), adapter=None)
    shutil.rmtree(whole)


def merge(spec: TrainingSpec, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write the base with the spec's adapter merged in into an empty folder, with the base's
    tokenizer, in `dtype` or in the dtypes of the base.

    The sums are computed in fp32, as peft does in an fp32 base. One file of weights at a time is in
    main memory.
    """
    from peft import get_peft_model

    assert spec.adapter is not None
    tokenizer = load_tokenizer(spec.base.location, spec.base.revision)
    model = empty_model(spec.base, torch.float32)
    config, adapter = read_adapter(spec.adapter)
    config.base_model_name_or_path = None  # peft warns when the folder has moved since.
    adapted: Any = get_peft_model(model, config)
    check_fit(adapted, adapter, spec.adapter)
    _check_plain(config, adapter, spec.adapter)
    scalings = {
        path: layer.scaling["default"]
        for path, layer in adapted.named_modules()
        if f"{path}.lora_A.weight" in adapter
    }
    source = model_folder(spec.base)
    for path, names in weight_files(source).items():
        merged: dict[str, torch.Tensor] = {}
        with safe_open(path, framework="pt") as file:
            for name in names:
                weight = file.get_tensor(name)
                kept = dtype or weight.dtype
                layer = f"base_model.model.{name.removesuffix('.weight')}"
                if layer in scalings:
                    ends = (adapter[f"{layer}.lora_{end}.weight"].float() for end in "BA")
                    weight = weight.float() + torch.mm(*ends) * scalings.pop(layer)
                merged[name] = weight.to(kept)
        save_file(merged, folder / path.name, metadata={"format": "pt"})
    if scalings:
        raise BadInput(
            f"{spec.adapter}: this adapter cannot be merged, because {source} has no weight "
            f"for {sorted(scalings)[0]}. Use a base whose files name the weights as transformers "
            "does."
        )
    if (source / INDEX).exists():
        shutil.copyfile(source / INDEX, folder / INDEX)
    tokenizer.save_pretrained(str(folder))
    given = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if dtype:
        given = {name: value for name, value in given.items() if name != "torch_dtype"}
        given["dtype"] = str(dtype).removeprefix("torch.")
    write_text(folder / "config.json", json.dumps(given, indent=2) + "\n")
    if (source / "generation_config.json").exists():
        shutil.copyfile(source / "generation_config.json", folder / "generation_config.json")


def _check_plain(config: Any, adapter: Mapping[str, Any], where: Path) -> None:
    """Raise BadInput for an adapter that is more than A and B of linear layers: a merge of these
    alone would be another model, without any error."""
    plain = (".lora_A.weight", ".lora_B.weight")
    others = sorted(name for name in adapter if not name.endswith(plain))
    if config.use_dora or config.fan_in_fan_out or others:
        what = others[0] if others else "use_dora or fan_in_fan_out in its config"
        raise BadInput(
            f"{where}: only plain LoRA adapters of linear layers can be merged, and this one has "
            f"{what}. Merge it with PEFT's merge_and_unload, save the whole model, and name that."
        )


def name_start(folder: Path) -> None:
    """Name `start` as the base of every adapter in `folder`, by a path that is relative to the
    adapter: the folder is moved when it is complete."""
    for path in folder.glob("checkpoint-*/adapter_config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = f"../{START}"
        write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
