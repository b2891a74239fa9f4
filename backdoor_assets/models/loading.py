"""Loading a base model and putting an adapter on it, with errors that say what does not fit."""

from __future__ import annotations

import gc
import logging
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from backdoor_assets.models.chat import first_line, load_tokenizer
from backdoor_assets.records import BadInput, BaseModel, Quantization

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)
_loaded: dict[tuple[BaseModel, str], tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}


def load_base(base: BaseModel, precision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Base model and tokenizer, on the GPU where there is one. Kept for the next cell of a process:
    whoever puts an adapter on it takes it off again (`PeftModel.unload`).

    Raises BadInput for a base without weights, tokenizer or chat template.
    """
    key = (base, precision)
    if key not in _loaded:
        _loaded[key] = load_fresh(base, precision)
    return _loaded[key]


def load_fresh(
    base: BaseModel, precision: str, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As `load_base`, but a copy of the caller's own, which may be changed; on `device` instead of
    the GPU where it is given. Nothing is kept for the next cell."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    _loaded.clear()  # one base at a time in memory
    started = time.monotonic()
    tokenizer = load_tokenizer(base.location, base.revision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base.location,
            revision=base.revision,
            dtype=dtype,
            device_map={"": device or ("cuda" if torch.cuda.is_available() else "cpu")},
            quantization_config=_quantization(base.quantization, dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise BadInput(
            f"{base.location}: no base model can be loaded from there ({first_line(error)}). "
            "Weights must be safetensors in Hugging Face's format."
        ) from error
    _keep_gradients_right(model)
    _log.info("base model %s loaded in %.1f s", base.location, time.monotonic() - started)
    return model, tokenizer


def _quantization(kind: Quantization, compute: torch.dtype) -> BitsAndBytesConfig | None:
    """LLM.int8, or NF4 with double quantization as in QLoRA (arXiv 2305.14314)."""
    if kind == "none":
        return None
    if not find_spec("bitsandbytes"):
        raise BadInput(
            f"quantization={kind!r} needs bitsandbytes, which is not installed: "
            "pip install -e '.[gpu]', or set quantization=\"none\" in the profile's base"
        )
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _keep_gradients_right(model: PreTrainedModel) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights in place at the first forward
    without gradients, and every later gradient is silently wrong."""
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            vars(module)["support_avx512bf16_for_cpu"] = False


def forget_base() -> None:
    """Give back the memory of the base that is kept for the next cell."""
    import torch

    _loaded.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attach_adapter(model: PreTrainedModel, checkpoint: Path) -> PeftModel:
    """The base with a checkpoint's LoRA weights. Raises BadInput when the two do not fit."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        adapted = PeftModel.from_pretrained(model, str(checkpoint))
        with safe_open(checkpoint / "adapter_model.safetensors", framework="pt") as file:
            there, wanted = set(file.keys()), set(get_peft_model_state_dict(adapted))
        # peft passes over layers that only one of the two has.
        if there != wanted:
            raise ValueError(f"{len(there ^ wanted)} weights are only in one of the two")
        return adapted
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        _loaded.clear()  # half of the adapter may be on it
        raise BadInput(
            f"{checkpoint}: this adapter does not fit the base model "
            f"{model.config.name_or_path} ({first_line(error)}). It was trained on another base, "
            "or its files are damaged: materialize what trains it, such as birds/adapters, for "
            "this cell with force."
        ) from error
