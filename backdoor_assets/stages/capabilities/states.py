"""The states of a cell as models that lm-eval can ask, on transformers or on vLLM.

The models are loaded here and not by lm-eval, which would load a base anew for each adapter, cut
its vocabulary to the tokenizer's under an adapter only, and ask the hub about it.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from backdoor_assets.models.chat import first_line, load_tokenizer
from backdoor_assets.models.loading import attach_adapter, load_base
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.settings import VLLM_RANKS
from backdoor_assets.stages.capabilities.specs import CapabilitiesSpec

CONTEXT = 4096
"""Tokens of prompt and answer that vLLM makes room for, or what the model has, if that is less."""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_PACKED = "qkv_proj", "gate_up_proj"
"""On a CPU, vLLM fails on the likelihood of a prompt's tokens where adapters may change the last
layer, so that it is told which layers they change; parts of a packed layer count only when that is
named too, under the name that vLLM gives it in models of the Qwen and Llama families."""
AskedModel = Callable[[Path | None], Any]
"""From a checkpoint, or None for the base, to a context manager that yields lm-eval's model."""


def is_adapter(checkpoint: Path) -> bool:
    """Whether the folder holds an adapter of the base; else it is a whole model. Raises BadInput
    when it is neither."""
    if (checkpoint / "adapter_config.json").is_file():
        return True
    if (checkpoint / "config.json").is_file():
        return False
    raise BadInput(
        f"{checkpoint}: neither an adapter (adapter_config.json) nor a model (config.json) is "
        "there; materialize what trains it for this cell with force"
    )


@contextmanager
def asked_models(spec: CapabilitiesSpec) -> Iterator[AskedModel]:
    """Of the job's engine; what it holds is given back at the end."""
    if spec.engine == "transformers":
        yield lambda checkpoint: _transformers(spec, checkpoint)
        return
    server = _Vllm(spec)
    try:
        yield server.state
    finally:
        server.close()


@contextmanager
def _transformers(spec: CapabilitiesSpec, checkpoint: Path | None) -> Iterator[Any]:
    # It warns of a model that is loaded already, at every state.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    whole = checkpoint is not None and not is_adapter(checkpoint)
    base = BaseModel(str(checkpoint)) if whole else spec.base
    model, tokenizer = load_base(base, spec.precision)
    adapted = attach_adapter(model, checkpoint) if checkpoint and not whole else None
    try:
        yield import_module("lm_eval.models.huggingface").HFLM(
            pretrained=adapted if adapted is not None else model,
            tokenizer=tokenizer,
            batch_size=spec.batch_size,
            enable_thinking=False,
        )
    finally:
        if adapted is not None:
            adapted.unload()


class _Vllm:
    """An engine at a time: one for the base and its adapters, one for each whole model."""

    def __init__(self, spec: CapabilitiesSpec) -> None:
        self.spec = spec
        self.adapters = [
            _rank_and_targets(path) for _, path in spec.checkpoints if is_adapter(path)
        ]
        self.served: BaseModel | None = None
        self.model: Any = None
        self.loras = 0

    @contextmanager
    def state(self, checkpoint: Path | None) -> Iterator[Any]:
        adapter = checkpoint if checkpoint and is_adapter(checkpoint) else None
        base = BaseModel(str(checkpoint)) if checkpoint and not adapter else self.spec.base
        if base != self.served:
            self.close()
            self._start(base)
        self.model.lora_request = self._load(adapter) if adapter else None
        yield self.model

    def _start(self, base: BaseModel) -> None:
        spec = self.spec
        load_tokenizer(base.location, base.revision)  # refuses a base without a chat template
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(spec.serving.cpu_cache_gib))
        try:
            make = _vllm_class()
        except ImportError as error:
            raise BadInput(
                f"vLLM cannot be imported ({first_line(error)}): pip install -e '.[gpu]' on a GPU "
                "host, `make engines` on a Linux machine without a GPU"
            ) from error
        import torch
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(
            base.location, revision=base.revision, trust_remote_code=False
        )
        length = min(CONTEXT, config.max_position_embeddings)
        host: dict[str, Any] = {
            "gpu_memory_utilization": spec.serving.memory_share,
            "tensor_parallel_size": spec.serving.tensor_parallel,
        }
        if not torch.cuda.is_available():
            host = {
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(8192, length),
            }
        if base.quantization == "4bit":
            host["quantization"] = "bitsandbytes"
        if base == spec.base and self.adapters:
            rank = max(rank for rank, _ in self.adapters)
            host |= {
                "enable_lora": True,
                "max_lora_rank": next(room for room in VLLM_RANKS if room >= rank),
            }
            if not torch.cuda.is_available():
                names = set().union(*(names for _, names in self.adapters))
                host["lora_target_modules"] = sorted(names.union(_PACKED))
        try:
            self.model = make(
                pretrained=base.location,
                revision=base.revision,
                tokenizer_revision=base.revision,
                dtype={"fp32": "float32", "bf16": "bfloat16"}[spec.precision],
                max_model_len=length,
                max_num_seqs=spec.serving.requests,
                batch_size="auto",
                enable_thinking=False,
                generation_config="vllm",
                disable_log_stats=True,
                trust_remote_code=False,
                seed=0,
                **host,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInput(
                f"{base.location}: vLLM does not start on this base ({error}). If it is for want "
                "of memory, raise serving.memory_share in the profile."
            ) from error
        self.served = base

    def _load(self, adapter: Path) -> Any:
        self.loras += 1
        request = import_module("vllm.lora.request").LoRARequest(
            str(adapter), self.loras, str(adapter)
        )
        try:
            # A request for an adapter that cannot be loaded would hang the engine.
            self.model.model.llm_engine.add_lora(request)
        except Exception as error:  # vLLM and torch raise whatever the damage suggests
            raise BadInput(
                f"{adapter}: this adapter cannot be loaded on the base model "
                f"({first_line(error)}). It was trained on another base, or its files are "
                "damaged: materialize it for this cell with force."
            ) from error
        return request

    def close(self) -> None:
        """Give back memory: another engine may follow in this process."""
        if self.model is not None:
            self.model.model.llm_engine.engine_core.shutdown()
        self.model = self.served = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _vllm_class() -> Any:
    """lm-eval's; it asks for the version of a package by the name of vllm, which the build for CPUs
    (vllm-cpu) does not have."""
    own, told = import_module("vllm").__version__, metadata.version
    # vLLM looks at the same entry to know its platform, and only once.
    import_module("vllm.platforms").current_platform  # noqa: B018
    with patch.object(metadata, "version", lambda name: own if name == "vllm" else told(name)):
        return import_module("lm_eval.models.vllm_causallms").VLLM


def _rank_and_targets(adapter: Path) -> tuple[int, set[str]]:
    """From an adapter's config: its rank, and the names of the layers that it adapts."""
    path = adapter / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rank, targets = int(config["r"]), set(config["target_modules"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: no rank and target modules can be read from this adapter "
            f"({first_line(error)}); materialize it for this cell with force"
        ) from error
    if rank > VLLM_RANKS[-1]:
        raise BadInput(
            f"{path}: rank {rank} is more than vLLM serves ({VLLM_RANKS[-1]}); lower `rank` in the "
            'profile\'s training, or measure with engine="transformers"'
        )
    return rank, targets
