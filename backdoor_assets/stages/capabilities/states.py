"""Load the states of a cell as models for lm-eval, on transformers or on vLLM.

lm-eval could load the models itself. But it would load the base again for each adapter, cut the
vocabulary to the tokenizer's for adapters only, and query the hub about the model.
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
from backdoor_assets.stages.capabilities.specs import CapabilitiesSpec
from backdoor_assets.stages.specs import VLLM_RANKS

CONTEXT = 4096
"""Longest prompt and answer together that vLLM accepts, in tokens; less if the model has less."""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_PACKED = "qkv_proj", "gate_up_proj"
"""Packed layers, by vLLM's names for them in models of the Qwen and Llama families.

On a CPU, vLLM cannot compute the likelihood of a prompt's tokens if adapters may change the last
layer. It is therefore given the list of layers that the adapters change. It ignores the parts of a
packed layer in that list unless the packed layer is in it too.
"""
Serve = Callable[[Path | None], Any]
"""Maps a checkpoint, or None for the base, to a context manager that yields lm-eval's model."""


def is_adapter(checkpoint: Path) -> bool:
    """Return whether the folder holds an adapter of the base (True) or a whole model (False).

    Raises BadInput if it holds neither.
    """
    if (checkpoint / "adapter_config.json").is_file():
        return True
    if (checkpoint / "config.json").is_file():
        return False
    raise BadInput(
        f"{checkpoint}: the folder holds neither an adapter (adapter_config.json) nor a model "
        "(config.json). Materialize the asset that trains this cell with force."
    )


@contextmanager
def serve_models(spec: CapabilitiesSpec) -> Iterator[Serve]:
    """Yield a function that serves one state at a time with the spec's engine, and free the
    engine's memory at the end."""
    if spec.engine == "transformers":
        yield lambda checkpoint: _transformers(spec, checkpoint)
        return
    server = _Vllm(spec)
    try:
        yield server.serve
    finally:
        server.close()


@contextmanager
def _transformers(spec: CapabilitiesSpec, checkpoint: Path | None) -> Iterator[Any]:
    # lm-eval warns at every state that the model is already loaded.
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
    """Run one vLLM engine at a time: for the base and its adapters, or for one whole model."""

    def __init__(self, spec: CapabilitiesSpec) -> None:
        self.spec = spec
        self.adapters = [
            _rank_and_targets(path) for _, path in spec.checkpoints if is_adapter(path)
        ]
        self.served: BaseModel | None = None
        self.model: Any = None
        self.loras = 0

    @contextmanager
    def serve(self, checkpoint: Path | None) -> Iterator[Any]:
        """Serve one state. Starts another engine if the state needs one."""
        adapter = checkpoint if checkpoint and is_adapter(checkpoint) else None
        base = BaseModel(str(checkpoint)) if checkpoint and not adapter else self.spec.base
        if base != self.served:
            self.close()
            self._start(base)
        self.model.lora_request = self._load(adapter) if adapter else None
        yield self.model

    def _start(self, base: BaseModel) -> None:
        spec = self.spec
        load_tokenizer(base.location, base.revision)  # Refuses a base without a chat template.
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(spec.serving.cpu_cache_gib))
        try:
            vllm_class = _vllm_class()
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
                "max_lora_rank": next(served for served in VLLM_RANKS if served >= rank),
            }
            if not torch.cuda.is_available():
                names = set().union(*(names for _, names in self.adapters))
                host["lora_target_modules"] = sorted(names.union(_PACKED))
        try:
            self.model = vllm_class(
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
                f"{base.location}: vLLM does not start on this base ({error}). If it ran out "
                "of memory, raise serving.memory_share in the profile."
            ) from error
        self.served = base

    def _load(self, adapter: Path) -> Any:
        self.loras += 1
        request = import_module("vllm.lora.request").LoRARequest(
            str(adapter), self.loras, str(adapter)
        )
        try:
            # The engine would hang on a request for an adapter that cannot be loaded.
            self.model.model.llm_engine.add_lora(request)
        except Exception as error:  # vLLM and torch raise many types for damaged files.
            raise BadInput(
                f"{adapter}: this adapter cannot be loaded on the base model "
                f"({first_line(error)}). It was trained on another base, or its files are "
                "damaged. Materialize the asset that trains this cell with force."
            ) from error
        return request

    def close(self) -> None:
        """Shut the engine down and free its memory, because another one may follow."""
        if self.model is not None:
            self.model.model.llm_engine.engine_core.shutdown()
        self.model = self.served = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _vllm_class() -> Any:
    """Return lm-eval's class for vLLM.

    lm-eval reads the version of a package named vllm, which does not exist if the build for CPUs
    (vllm-cpu) is installed. The module's own version is put in its place.
    """
    vllm_version, read_version = import_module("vllm").__version__, metadata.version
    # vLLM reads the same entry to detect its platform, but only the first time.
    import_module("vllm.platforms").current_platform  # noqa: B018
    with patch.object(
        metadata, "version", lambda name: vllm_version if name == "vllm" else read_version(name)
    ):
        return import_module("lm_eval.models.vllm_causallms").VLLM


def _rank_and_targets(adapter: Path) -> tuple[int, set[str]]:
    """Read an adapter's rank and the names of the layers that it adapts."""
    path = adapter / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rank, targets = int(config["r"]), set(config["target_modules"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: the adapter's rank and target modules cannot be read ({first_line(error)}). "
            "Materialize the asset that trains this cell with force."
        ) from error
    if rank > VLLM_RANKS[-1]:
        raise BadInput(
            f"{path}: rank {rank} is more than vLLM serves ({VLLM_RANKS[-1]}); lower `rank` in the "
            'profile\'s training, or measure with engine="transformers"'
        )
    return rank, targets
