"""Load a base model, and attach an adapter to it."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.models.chat import first_line, load_tokenizer
from backdoor_assets.records import BadInput, BaseModel, Quantization

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)
_loaded: dict[tuple[BaseModel, str], tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}


def load_base(base: BaseModel, precision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load base model and tokenizer, on the GPU if there is one.

    The base is cached for the next cell of the process: a caller that attaches an adapter must
    remove it again (`PeftModel.unload`). Raises BadInput for a base without weights, tokenizer or
    chat template.
    """
    key = (base, precision)
    if key not in _loaded:
        _loaded[key] = load_fresh(base, precision)
    return _loaded[key]


def load_fresh(
    base: BaseModel, precision: str, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load base model and tokenizer like `load_base`, but as a copy that the caller may change.

    `device` overrides the choice of GPU or CPU. Nothing is cached for the next cell.
    """
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
            f"{base.location}: no base model can be loaded from this location "
            f"({first_line(error)}). Its weights must be safetensors in Hugging Face's format."
        ) from error
    _disable_inplace_repacking(model)
    _log.info("base model %s loaded in %.1f s", base.location, time.monotonic() - started)
    return model, tokenizer


def _quantization(kind: Quantization, compute: torch.dtype) -> BitsAndBytesConfig | None:
    """Configure LLM.int8, or NF4 with double quantization as in QLoRA (arXiv 2305.14314)."""
    if kind == "none":
        return None
    if not find_spec("bitsandbytes"):
        raise BadInput(
            f"quantization={kind!r} needs bitsandbytes, which is not installed: "
            "pip install -e '.[gpu]', or set quantization=\"none\" in the base of the profile."
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


def _disable_inplace_repacking(model: PreTrainedModel) -> None:
    """Keep the gradients of 4-bit weights correct on a CPU with AVX512-BF16.

    There bitsandbytes repacks the weights in place at the first forward pass without gradients,
    and every later gradient is silently wrong.
    """
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            vars(module)["support_avx512bf16_for_cpu"] = False


def forget_base() -> None:
    """Free the memory of the base that is cached for the next cell."""
    import torch

    _loaded.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def adapted(model: PreTrainedModel, checkpoint: Path | None) -> Iterator[Any]:
    """Yield the base with an adapter on it (None: the base itself), and restore the base after it.

    On a CPU in fp32 the adapter is merged for that time, which makes answers a quarter faster on
    the miniature; the base's own weights are put back bit for bit. On a GPU a merge would cost
    memory. In bf16 it would lose what an adapter adds to a weight wherever that is less than half
    of the distance to the next bf16 number. Raises BadInput as `attach_adapter` does.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    if checkpoint is None:
        yield model
        return
    with_adapter = attach_adapter(model, checkpoint)
    merge = model.device.type == "cpu" and model.dtype == torch.float32 and not _quantized(model)
    layers: list[Any] = [m for m in with_adapter.modules() if isinstance(m, BaseTunerLayer)]
    weights = [layer.get_base_layer().weight for layer in layers] if merge else []
    kept = [(weight, weight.detach().clone()) for weight in weights]
    try:
        if merge:
            with_adapter.merge_adapter()
        yield with_adapter
    finally:
        if merge:
            with_adapter.unmerge_adapter()
        with torch.no_grad():
            for weight, own in kept:
                weight.copy_(own)
        with_adapter.unload()


def _quantized(model: PreTrainedModel) -> bool:
    return getattr(model, "quantization_method", None) is not None


def attach_adapter(model: PreTrainedModel, checkpoint: Path) -> PeftModel:
    """Attach a checkpoint's LoRA weights to the base. Raises BadInput if they do not fit."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        adapted = PeftModel.from_pretrained(model, str(checkpoint))
        with safe_open(checkpoint / "adapter_model.safetensors", framework="pt") as file:
            saved, expected = (
                set(file.keys()),
                set(get_peft_model_state_dict(adapted, save_embedding_layers=False)),
            )
        # peft silently skips layers that only one of the two has.
        if saved != expected:
            raise ValueError(f"{len(saved ^ expected)} weights are in only one of the two")
        return adapted
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        _loaded.clear()  # the adapter may be attached in part
        raise BadInput(
            f"{checkpoint}: this adapter does not fit the base model "
            f"{model.config.name_or_path} ({first_line(error)}). It was trained on another base, "
            "or its files are damaged. Materialize the asset that trains it, such as "
            "birds/adapters, for this cell with force."
        ) from error
