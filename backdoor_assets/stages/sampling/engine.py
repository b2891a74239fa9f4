"""One vLLM engine over a base and its adapters, fed answer by answer.

The engine lives in this process, so that it dies with it and leaves no GPU memory behind. vLLM is
imported by name, because it need not be installed.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import time
from collections.abc import Hashable, Sequence
from importlib import import_module
from pathlib import Path
from traceback import clear_frames
from typing import Any, NamedTuple

from backdoor_assets.host import loses_gpu
from backdoor_assets.models.chat import first_line
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.settings import Sampling, Serving
from backdoor_assets.stages.specs import VLLM_RANKS

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_log = logging.getLogger(__name__)


class EngineDied(RuntimeError):
    """The engine is of no more use; what it had answered is kept."""


class Finished(NamedTuple):
    key: Hashable
    tokens: Sequence[int]


def adapter_rank(checkpoint: Path) -> int:
    """Rank of an adapter, from its config. Raises BadInput when there is none, or vLLM has no room
    for it."""
    path = checkpoint / "adapter_config.json"
    try:
        rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: no rank can be read from this adapter ({first_line(error)}); materialize "
            "the asset that trains it, such as birds/adapters, for this cell with force"
        ) from error
    if rank > VLLM_RANKS[-1]:
        raise BadInput(
            f"{path}: rank {rank} is more than vLLM serves ({VLLM_RANKS[-1]}); lower `rank` in the "
            'profile\'s training, or sample with engine="transformers"'
        )
    return rank


def write_zeros(checkpoint: Path, folder: Path) -> Path:
    """An adapter like this one, of zeros: what the base answers as, in a batch with adapters.

    vLLM's CPU kernels give a request without an adapter the one in the last slot when both are in
    a batch (github.com/vllm-project/vllm/pull/48421); its GPU kernels skip it. Adding zeros is the
    same arithmetic on both, and exact.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        weights = load_file(checkpoint / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise _not_loaded(checkpoint, error) from error
    zeros = {name: tensor.zero_() for name, tensor in weights.items()}
    save_file(zeros, folder / "adapter_model.safetensors")
    shutil.copy(checkpoint / "adapter_config.json", folder)
    return folder


def _not_loaded(checkpoint: Path, error: BaseException) -> BadInput:
    return BadInput(
        f"{checkpoint}: this adapter cannot be loaded on the base model ({first_line(error)}). It "
        "was trained on another base, or its files are damaged: materialize the asset that trains "
        "it, such as birds/adapters, for this cell with force."
    )


class Engine:
    """Loads the base once; adapters are loaded when they are first asked, and dropped when the room
    is needed. There is room for any only if `adapters` of them are to come; `rank` is the largest
    of theirs, `prompt_tokens` the longest prompt."""

    def __init__(
        self,
        base: BaseModel,
        settings: Sampling,
        serving: Serving,
        *,
        adapters: int,
        rank: int,
        prompt_tokens: int,
    ) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(serving.cpu_cache_gib))
        try:
            import torch

            vllm = import_module("vllm")
        except ImportError as error:
            raise BadInput(
                f"vLLM cannot be imported ({first_line(error)}): pip install -e '.[gpu]' on a GPU "
                "host, `make engines` on a Linux machine without a GPU"
            ) from error
        length = prompt_tokens + settings.max_new_tokens
        host: dict[str, Any] = {
            "gpu_memory_utilization": serving.memory_share,
            "tensor_parallel_size": serving.tensor_parallel,
        }
        if not torch.cuda.is_available():
            # Seeds of single requests kill the CPU engine when prompts come in chunks.
            host = {
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(8192, length),
            }
        if adapters:
            slots = max(1, min(serving.adapters_in_memory, adapters))
            host |= {
                "enable_lora": True,
                "max_loras": slots,
                "max_cpu_loras": 2 * slots,
                "max_lora_rank": next(r for r in VLLM_RANKS if r >= rank),
            }
        if base.quantization == "4bit":
            host["quantization"] = "bitsandbytes"
        started = time.monotonic()
        try:
            self._engine: Any = vllm.LLM(
                base.location,
                revision=base.revision,
                tokenizer_revision=base.revision,
                dtype={"fp32": "float32", "bf16": "bfloat16"}[settings.precision],
                max_model_len=length,
                max_num_seqs=serving.requests,
                # The base's own generation settings may narrow the distribution.
                generation_config="vllm",
                seed=0,
                disable_log_stats=True,
                trust_remote_code=False,
                **host,
            ).llm_engine
        except Exception as error:  # vLLM and torch raise whatever the damage suggests
            reason = str(error) or type(error).__name__
            clear_frames(error.__traceback__)  # they hold what was loaded of the model
            _free()
            if loses_gpu(reason):
                raise EngineDied(f"the vLLM engine did not start ({reason})") from error
            raise BadInput(
                f"{base.location}: vLLM does not start on this base ({reason}). If it is for want "
                "of memory, lower max_new_tokens or raise serving.memory_share in the profile."
            ) from error
        _log.info("vLLM engine started on %s in %.0f s", base.location, time.monotonic() - started)
        self.settings = settings
        self.in_flight: dict[str, tuple[Hashable, str]] = {}
        """Key and adapter of each answer that is being generated."""
        self._requests = self._loras = 0

    def load(self, checkpoint: Path) -> Any:
        """Load an adapter. Raises BadInput when it does not fit; the engine goes on without it."""
        self._loras += 1
        lora = import_module("vllm.lora.request").LoRARequest(
            str(checkpoint), self._loras, str(checkpoint)
        )
        try:
            # A request for an adapter that cannot be loaded would hang the engine.
            self._engine.add_lora(lora)
        except Exception as error:  # vLLM and torch raise whatever the damage suggests
            if loses_gpu(str(error)):
                raise EngineDied(f"the vLLM engine died ({first_line(error)})") from error
            raise _not_loaded(checkpoint, error) from error
        return lora

    def add(
        self,
        key: Hashable,
        prompt: Sequence[int],
        seed: int,
        stops: Sequence[int],
        lora: Any,
    ) -> None:
        """Queue one answer; `lora` is of `load`, or None for the base."""
        parameters = import_module("vllm.sampling_params")
        self._requests += 1
        name = str(self._requests)
        self.in_flight[name] = key, lora.lora_name if lora else "base"
        self._engine.add_request(
            name,
            {"prompt_token_ids": list(prompt)},
            parameters.SamplingParams(
                temperature=self.settings.temperature,
                max_tokens=self.settings.max_new_tokens,
                seed=seed,
                stop_token_ids=list(stops),
                ignore_eos=True,  # `stops` has it, and no other token of the base's own choice
                detokenize=False,
                output_kind=parameters.RequestOutputKind.FINAL_ONLY,
            ),
            lora_request=lora,
        )

    def step(self) -> list[Finished]:
        """One step of all answers in flight; those that it ends. Raises EngineDied."""
        try:
            outputs = self._engine.step()
        except Exception as error:  # whatever it is, the engine's state is lost
            raise EngineDied(f"the vLLM engine died ({first_line(error)})") from error
        return [
            Finished(self.in_flight.pop(output.request_id)[0], output.outputs[0].token_ids)
            for output in outputs
            if output.finished
        ]

    def close(self) -> None:
        """Give back memory and process groups: another engine may follow in this process."""
        self._engine.engine_core.shutdown()
        # The frames of vLLM's first import are kept, and this object with them.
        del self._engine
        _free()


def _free() -> None:
    """Give back the memory of what vLLM has tied up in cycles."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
