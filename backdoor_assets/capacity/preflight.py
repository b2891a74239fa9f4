"""Refuses, before the first step, a run that this machine cannot hold or has no software for.

The needs themselves are in `memory`; here they are compared with the host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backdoor_assets.capacity.memory import (
    CUDA_CONTEXT,
    GIB,
    KV_CACHE,
    PROCESS,
    SamplingNeed,
    TrainingNeed,
    download_disk,
    tables_disk,
)
from backdoor_assets.capacity.refusals import check_disk, check_memory, gib
from backdoor_assets.capacity.shapes import parameters, shape_of, weights_bytes
from backdoor_assets.capacity.steps import steps_at_most
from backdoor_assets.host import GPUS, Gpu, Host, installed, this_host
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput, BaseModel, Quantization, Shape
from backdoor_assets.settings import PretrainedBase, Sampling
from backdoor_assets.stages.specs import SamplingSpec, TrainingSpec
from backdoor_assets.stages.training.nodes import NODES, nodes_for
from backdoor_assets.storage.provenance import REPOSITORY

HUB_ADVICE = "Free some space, or set HF_HOME to a folder on a larger disk."


def training_fits(specs: Sequence[TrainingSpec], folder: Path) -> None:
    """Check the training of cells whose adapters or models go under `folder`, by kind: they follow
    each other on a GPU. Raises BadInput."""
    kinds: dict[tuple[object, ...], list[TrainingSpec]] = {}
    for spec in specs:
        kind = spec.settings, spec.processes, spec.base.quantization, spec.fresh, bool(spec.adapter)
        kinds.setdefault(kind, []).append(spec)
    for alike in kinds.values():
        first = alike[0]
        check_engine(Sampling(), first.base.quantization, first.settings.optimizer)
        if shape := _shape(first.base):
            host, settings = this_host(folder), first.settings
            need = TrainingNeed(shape, settings, first.base.quantization, first.processes)
            steps = max(steps_at_most(settings, _lines(spec.rows), [spec.rows]) for spec in alike)
            together = min(len(alike), max(1, len(host.gpus) // max(1, first.processes)))
            check_training_memory(need, host, together)
            parts = training_disk(need, steps, len(alike), together) | _merged_disk(alike, shape)
            check_disk("training", parts, folder, host)


def sampling_fits(specs: Sequence[SamplingSpec], folder: Path) -> None:
    """Check the sampling of cells whose answers go under `folder`. Raises BadInput."""
    first, settings = specs[0], specs[0].settings
    check_engine(settings, first.base.quantization)
    if shape := _shape(first.base):
        host, rank = this_host(folder), _rank(first)
        check_sampling_memory(
            SamplingNeed(shape, settings, first.serving, first.base.quantization, rank), host
        )
        answers = sum(
            (1 + len(spec.checkpoints)) * sum(question.samples for question in spec.questions)
            for spec in specs
        )
        check_disk("sampling", sampling_disk(answers, settings.max_new_tokens), folder, host)


def sampling_fits_profile(profile: Profile) -> None:
    """Check the memory for sampling before there are adapters to sample. Raises BadInput."""
    base, rank = profile.base, profile.training.rank
    if isinstance(base, PretrainedBase) and base.shape:
        need = SamplingNeed(base.shape, profile.sampling, profile.serving, base.quantization, rank)
        check_sampling_memory(need, this_host(REPOSITORY))


def scoring_fits_profile(profile: Profile) -> None:
    """Check the memory for scoring answers before there are any. Raises BadInput."""
    base = profile.base
    if isinstance(base, PretrainedBase) and base.shape:
        precision, host = profile.sampling.precision, this_host(REPOSITORY)
        check_scoring_memory(base.shape, precision, base.quantization, host)


def check_training_memory(need: TrainingNeed, host: Host, together: int = 1) -> None:
    """Raise BadInput when there are fewer GPUs than processes, or a step does not fit into the
    memory of one, or those of so many trainings into the RAM."""
    settings, processes = need.settings, need.processes
    nodes = nodes_for(processes, len(host.gpus)).count
    here = processes // nodes
    if host.gpus and len(host.gpus) < here:
        raise BadInput(
            f"training is spread over {here} GPUs, but this host has {len(host.gpus)}; lower "
            f"`processes` in the profile or design, or use a larger host, or several ({NODES})"
        )
    batch = f"training.batch_size below {settings.batch_size} (and gradient_accumulation above)"
    full = settings.method == "full"
    alone = not full and processes == 1
    advice = {
        **(_quantize(need.quantization, '"4bit"', '"8bit"') if alone else {}),
        "training.gradient_checkpointing=True": not settings.gradient_checkpointing,
        'training.optimizer="adamw8bit"': full and settings.optimizer == "adamw",
        batch: settings.batch_size > 1,
        f"training.max_length below {settings.max_length}, with shorter rows": True,
        "more GPUs (`processes` of the profile or design)": True,
    }
    on_device, in_ram = need.memory(), need.main_memory(here * together)
    if host.gpus:
        offload = {"training.offload=True": full and not settings.offload}
        check_memory("training", on_device, _free(host, here * together), advice | offload)
        check_memory("training", in_ram, (host.memory_available, "of RAM available"), advice)
        return
    # Without a GPU all processes share the RAM.
    parts = {name: size * here for name, size in _on_host(on_device, host).items()}
    kept = {name: size for name, size in in_ram.items() if settings.offload and name != PROCESS}
    check_memory("training", parts | kept, _free(host), advice)


def check_sampling_memory(need: SamplingNeed, host: Host) -> None:
    """Raise BadInput when sampling does not fit into memory."""
    settings, vllm = need.settings, need.settings.engine == "vllm"
    if not host.gpus:  # vLLM spreads over GPUs only.
        need = replace(need, serving=replace(need.serving, tensor_parallel=1))
    serving, parts = need.serving, need.memory()
    slots, gpus = serving.adapters_in_memory, serving.tensor_parallel
    advice = {
        **_quantize(need.quantization, '"4bit"', *([] if vllm else ['"8bit"'])),
        f"serving.adapters_in_memory below {slots}": vllm and slots > 1,
        f"serving.tensor_parallel above {gpus}, on as many GPUs": vllm,
        f"serving.requests below {serving.requests}": vllm,
        f"sampling.batch_size below {settings.batch_size}": not vllm and settings.batch_size > 1,
        f"sampling.max_new_tokens below {settings.max_new_tokens}": True,
    }
    if not vllm:
        check_memory("sampling", _on_host(parts, host), _free(host), advice)
    elif not host.gpus:
        # On a CPU the KV cache has the size that the profile gives it.
        cache = serving.cpu_cache_gib * GIB
        if cache < parts[KV_CACHE]:
            raise BadInput(
                f"sampling: the KV cache of one answer takes {gib(parts[KV_CACHE])}, but "
                f"serving.cpu_cache_gib={serving.cpu_cache_gib}; raise it, or lower "
                "sampling.max_new_tokens, in the profile"
            )
        check_memory("sampling", {**parts, KV_CACHE: cache}, _free(host), advice)
    elif len(host.gpus) < gpus:
        raise BadInput(
            f"sampling needs serving.tensor_parallel={gpus} GPUs, but this host has "
            f"{len(host.gpus)}; lower it in the profile"
        )
    else:
        for gpu in host.gpus:
            _check_share(gpu, serving.memory_share, parts, advice, host)


def check_scoring_memory(
    shape: Shape, precision: str, quantization: Quantization, host: Host
) -> None:
    """Raise BadInput when no single GPU, or the RAM, holds the base that scores answers."""
    parts = {"base weights": weights_bytes(shape, precision, quantization)}
    advice = _quantize(quantization, '"4bit"', '"8bit"')
    check_memory("scoring by the base (coherence)", parts, _free(host), advice)


def _check_share(
    gpu: Gpu, memory_share: float, parts: Mapping[str, int], advice: Mapping[str, bool], host: Host
) -> None:
    """vLLM takes its share of each GPU whole: needs must fit into it, and it must be free."""
    share, setting = int(memory_share * gpu.total), f"serving.memory_share={memory_share:g}"
    name = _name(gpu, host)
    check_memory("sampling", parts, (share, f"in {setting} of {name}"), advice)
    if gpu.free < share:
        raise BadInput(
            f"sampling: vLLM takes {gib(share)} of {name} ({setting}), and {gib(gpu.free)} are "
            "free; stop what else uses it, or lower serving.memory_share in the profile"
        )


def check_download(shape: Shape, cache_folder: Path, host: Host) -> None:
    """Raise BadInput when the weights do not fit on the disk of `cache_folder`; `host` is that
    folder's (`this_host(cache_folder)`)."""
    parts = {"bf16 weights": download_disk(shape)}
    check_disk("the base's download", parts, cache_folder, host, HUB_ADVICE)


def check_engine(sampling: Sampling, quantization: Quantization, optimizer: str = "adamw") -> None:
    """Raise BadInput when what samples or quantizes is not installed."""
    if sampling.engine == "vllm" and quantization == "8bit":
        raise BadInput(
            'vLLM quantizes a base to "4bit", not to "8bit": change quantization of the base in '
            'the profile, or sample with engine="transformers"'
        )
    if missing := missing_software(sampling, quantization, optimizer):
        raise BadInput("\n".join(f"{name}: {fix}" for name, fix in missing.items()))


def missing_software(
    sampling: Sampling, quantization: Quantization, optimizer: str = "adamw"
) -> dict[str, str]:
    """Return packages that the run needs and that are not installed, and how to install them."""
    extra = "pip install -e '.[gpu]', or `make engines` on a Linux machine without a GPU"
    vllm = sampling.engine == "vllm"
    packages = {
        "vllm": (vllm, extra),
        "bitsandbytes": (quantization != "none" or optimizer == "adamw8bit", extra),
        # vLLM has had no bitsandbytes of its own since 0.28.
        "vllm_bnb_plugin": (vllm and quantization == "4bit", "pip install vllm-bnb-plugin"),
    }
    return {
        name: f"not installed: {fix}"
        for name, (needed, fix) in packages.items()
        if needed and not installed(name)
    }


def training_disk(need: TrainingNeed, steps: int, runs: int, together: int = 1) -> dict[str, int]:
    """Return bytes by part of so many runs, some of them beside each other. The optimizer state of
    all weights goes after each."""
    parts = need.disk(steps)
    if need.settings.method == "full":
        return {
            f"models of {runs} run{'s' if runs > 1 else ''}": runs * parts["models"],
            f"optimizer state, {together} at a time": together * parts["optimizer state"],
        }
    return {
        f"adapters of {runs} cell{'s' if runs > 1 else ''}": runs * parts["adapters"],
        "optimizer state, while the next is written": together * need.optimizer_state(),
    }


def _merged_disk(alike: Sequence[TrainingSpec], shape: Shape) -> dict[str, int]:
    """Return bytes of the models into which adapters are merged before trainings of one kind."""
    first = alike[0]
    if first.fresh:
        config = _config(first.base)
        width = 4 if "32" in str(config.get("dtype", config.get("torch_dtype"))) else 2
        return {"models to start from": len(alike) * width * parameters(shape)}
    full, spread = first.settings.method == "full", first.processes > 1 or first.settings.offload
    if first.adapter and full and spread:
        return {"model to start from, in fp32": 4 * parameters(shape)}
    return {}


def sampling_disk(answers: int, answer_tokens: int) -> dict[str, int]:
    """Return bytes of answers while they are made: their parts and their tables exist at once."""
    return {f"{answers} answers": 2 * tables_disk(answers, answer_tokens)}


def _free(host: Host, gpus: int | None = None) -> tuple[int, str]:
    """Bytes that are free, and where: on the fullest of the first so many GPUs (all: None), each of
    which has a worker, else in the RAM."""
    if not host.gpus:
        return host.memory_available, "of RAM available (there is no GPU)"
    gpu = min(host.gpus[:gpus], key=lambda gpu: gpu.free)
    return gpu.free, f"free on {_name(gpu, host)}"


def _name(gpu: Gpu, host: Host) -> str:
    """Name a GPU so that it can be told from the others of its host."""
    others = f" (GPU {gpu.id}; {GPUS} can leave it out)" if len(host.gpus) > 1 else ""
    return gpu.name + others


def _on_host(parts: Mapping[str, int], host: Host) -> dict[str, int]:
    """The parts without what only a GPU takes, where there is none."""
    return {name: size for name, size in parts.items() if host.gpus or name != CUDA_CONTEXT}


def _quantize(quantization: Quantization, *kinds: str) -> dict[str, bool]:
    """Advice to quantize further than now."""
    less = {"none": kinds, "8bit": kinds[:1], "4bit": ()}[quantization]
    return {f"quantization={' or '.join(less)} of the base": bool(less)}


def _shape(base: BaseModel) -> Shape | None:
    """From the config of a base on this machine; None for a family that cannot be estimated."""
    return shape_of(_config(base))


def _config(base: BaseModel) -> dict[str, Any]:
    return json.loads((Path(base.location) / "config.json").read_text(encoding="utf-8"))


def _rank(spec: SamplingSpec) -> int:
    """Of the first adapter; the stage names one whose config is damaged."""
    for _, checkpoint in spec.checkpoints:
        config = checkpoint / "adapter_config.json"
        if config.exists():
            return int(json.loads(config.read_text(encoding="utf-8")).get("r", 16))
    return 16


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
