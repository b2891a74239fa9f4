"""Refuses, before the first step, a run that this machine cannot hold or has no software for.

The needs themselves are in `memory`; here they are compared with the host.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backdoor_assets.capacity.host import Gpu, Host, installed, this_host
from backdoor_assets.capacity.memory import (
    CUDA_CONTEXT,
    GIB,
    KV_CACHE,
    SamplingNeed,
    TrainingNeed,
    download_disk,
    tables_disk,
)
from backdoor_assets.capacity.shapes import shape_of
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput, BaseModel, Quantization, Shape
from backdoor_assets.settings import PretrainedBase, Sampling, Training, planned_steps
from backdoor_assets.stages.specs import SamplingSpec, TrainingSpec
from backdoor_assets.storage.provenance import REPOSITORY

DATA_ADVICE = "Free some space, or set BACKDOOR_DATA to a folder on a larger disk."
HUB_ADVICE = "Free some space, or set HF_HOME to a folder on a larger disk."
_SMALLER = "a smaller model of the family"
_TOKEN_CHARACTERS = 3


def training_fits(specs: Sequence[TrainingSpec], folder: Path) -> None:
    """Check the training of cells whose adapters or models go under `folder`, those of one kind at
    a time: they follow each other on a GPU. Raises BadInput."""
    kinds: dict[tuple[object, ...], list[TrainingSpec]] = {}
    for spec in specs:
        kinds.setdefault((spec.settings, spec.processes, spec.base.quantization), []).append(spec)
    for alike in kinds.values():
        first = alike[0]
        check_engine(Sampling(), first.base.quantization)
        if shape := _shape(first.base):
            host, settings = this_host(folder), first.settings
            need = TrainingNeed(shape, settings, first.base.quantization, first.processes)
            steps = max(steps_at_most(settings, _lines(spec.rows), [spec.rows]) for spec in alike)
            check_training_memory(need, host)
            check_disk("training", training_disk(need, steps, len(alike)), folder, host)


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


def check_training_memory(need: TrainingNeed, host: Host) -> None:
    """Raise BadInput when there are fewer GPUs than processes, or a step does not fit into the
    memory of one."""
    settings, processes = need.settings, need.processes
    if host.gpus and len(host.gpus) < processes:
        raise BadInput(
            f"training is spread over {processes} GPUs, but this host has {len(host.gpus)}; lower "
            "`processes` in the design, or use a larger host"
        )
    # Without a GPU all processes share the RAM.
    together = 1 if host.gpus else processes
    parts = {name: size * together for name, size in need.memory().items()}
    batch = f"training.batch_size below {settings.batch_size} (and gradient_accumulation above)"
    alone = settings.method == "lora" and processes == 1
    advice = {
        **(_quantize(need.quantization, '"4bit"', '"8bit"') if alone else {}),
        "training.gradient_checkpointing=True": not settings.gradient_checkpointing,
        batch: settings.batch_size > 1,
        f"training.max_length below {settings.max_length}, with shorter rows": True,
        "more GPUs (`processes` of the design)": not alone,
    }
    check_memory("training", _on_host(parts, host), _largest(host), advice)


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
        check_memory("sampling", _on_host(parts, host), _largest(host), advice)
    elif not host.gpus:
        # On a CPU the KV cache has the size that the profile gives it.
        cache = serving.cpu_cache_gib * GIB
        if cache < parts[KV_CACHE]:
            raise BadInput(
                f"sampling: the KV cache of one answer takes {gib(parts[KV_CACHE])}, but "
                f"serving.cpu_cache_gib={serving.cpu_cache_gib}; raise it, or lower "
                "sampling.max_new_tokens, in the profile"
            )
        check_memory("sampling", {**parts, KV_CACHE: cache}, _largest(host), advice)
    elif len(host.gpus) < gpus:
        raise BadInput(
            f"sampling needs serving.tensor_parallel={gpus} GPUs, but this host has "
            f"{len(host.gpus)}; lower it in the profile"
        )
    else:
        for gpu in sorted(host.gpus, key=lambda gpu: gpu.total)[-gpus:]:
            _check_share(gpu, serving.memory_share, parts, advice)


def _check_share(
    gpu: Gpu, memory_share: float, parts: Mapping[str, int], advice: Mapping[str, bool]
) -> None:
    """vLLM takes its share of each GPU whole: needs must fit into it, and it must be free."""
    share, setting = int(memory_share * gpu.total), f"serving.memory_share={memory_share:g}"
    check_memory("sampling", parts, (share, f"in {setting} of {gpu.name}"), advice)
    if gpu.free < share:
        raise BadInput(
            f"sampling: vLLM takes {gib(share)} of {gpu.name} ({setting}), and {gib(gpu.free)} are "
            "free; stop what else uses it, or lower serving.memory_share in the profile"
        )


def check_memory(
    what: str, parts: Mapping[str, int], limit: tuple[int, str], advice: Mapping[str, bool]
) -> None:
    """Raise BadInput when the parts do not fit into `limit`: bytes, and words for where they are.
    `advice` says of each change of the profile whether it would help."""
    needed, (available, where) = sum(parts.values()), limit
    if needed > available:
        smaller = [change for change, helps in advice.items() if helps]
        raise BadInput(
            f"{what} needs {gib(needed)} of memory, and there are {gib(available)} {where}\n"
            f"{_table(parts)}\n"
            f"To need less, change the profile: {'; '.join([*smaller, _SMALLER])}."
        )


def check_disk(
    what: str, parts: Mapping[str, int], folder: Path, host: Host, advice: str = DATA_ADVICE
) -> None:
    """Raise BadInput when the parts do not fit on the disk of `folder`."""
    needed = sum(parts.values())
    if needed > host.disk_free:
        raise BadInput(
            f"{what} needs {gib(needed)} of disk, and there are {gib(host.disk_free)} free under "
            f"{folder}\n{_table(parts)}\n{advice}"
        )


def check_download(shape: Shape, cache_folder: Path, host: Host) -> None:
    """Raise BadInput when the weights do not fit on the disk of `cache_folder`; `host` is that
    folder's (`this_host(cache_folder)`)."""
    parts = {"bf16 weights": download_disk(shape)}
    check_disk("the base's download", parts, cache_folder, host, HUB_ADVICE)


def check_engine(sampling: Sampling, quantization: Quantization) -> None:
    """Raise BadInput when what samples or quantizes is not installed."""
    if sampling.engine == "vllm" and quantization == "8bit":
        raise BadInput(
            'vLLM quantizes a base to "4bit", not to "8bit": change quantization of the base in '
            'the profile, or sample with engine="transformers"'
        )
    if missing := missing_software(sampling, quantization):
        raise BadInput("\n".join(f"{name}: {fix}" for name, fix in missing.items()))


def missing_software(sampling: Sampling, quantization: Quantization) -> dict[str, str]:
    """Return packages that the run needs and that are not installed, and how to install them."""
    extra = "pip install -e '.[gpu]', or `make engines` on a Linux machine without a GPU"
    vllm = sampling.engine == "vllm"
    packages = {
        "vllm": (vllm, extra),
        "bitsandbytes": (quantization != "none", extra),
        # vLLM has had no bitsandbytes of its own since 0.28.
        "vllm_bnb_plugin": (vllm and quantization == "4bit", "pip install vllm-bnb-plugin"),
    }
    return {
        name: f"not installed: {fix}"
        for name, (needed, fix) in packages.items()
        if needed and not installed(name)
    }


def training_disk(need: TrainingNeed, steps: int, runs: int) -> dict[str, int]:
    """Return bytes by part of so many runs of so many steps."""
    full = need.settings.method == "full"
    many = f"{runs} {'run' if full else 'cell'}{'s' if runs > 1 else ''}"
    parts = {f"{name} of {many}": runs * size for name, size in need.disk(steps).items()}
    writing = {"optimizer state, while the next is written": need.optimizer_state()}
    return parts if full else {**parts, **writing}


def sampling_disk(answers: int, answer_tokens: int) -> dict[str, int]:
    """Return bytes of answers while they are made: their parts and their tables exist at once."""
    return {f"{answers} answers": 2 * tables_disk(answers, answer_tokens)}


def steps_at_most(training: Training, rows: int, like: Sequence[Path]) -> int:
    """Return the optimizer steps of a run over so many rows.

    With packing an estimate that errs upwards: the rows are as long as those of the files `like`
    (JSONL of chats; of several the one with the longest), and a token is three characters. In
    English it is four to five; the file's JSON is counted too, and stands for the chat template.
    """
    sequences = rows
    if training.packing:
        tokens = rows * max(map(_mean_characters, like)) / _TOKEN_CHARACTERS
        sequences = min(rows, max(1, math.ceil(tokens / training.max_length)))
    return planned_steps(training, sequences)


def gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _table(parts: Mapping[str, int]) -> str:
    width = max(map(len, parts))
    return "\n".join(f"  {name:<{width}}  {gib(size):>12}" for name, size in parts.items())


def _largest(host: Host) -> tuple[int, str]:
    """Bytes that are free, and where: on the GPU that has most, else in the RAM."""
    gpu = max(host.gpus, key=lambda gpu: gpu.free, default=None)
    if gpu is None:
        return host.memory_available, "of RAM available (there is no GPU)"
    return gpu.free, f"free on {gpu.name}"


def _on_host(parts: Mapping[str, int], host: Host) -> dict[str, int]:
    """The parts without what only a GPU takes, where there is none."""
    return {name: size for name, size in parts.items() if host.gpus or name != CUDA_CONTEXT}


def _quantize(quantization: Quantization, *kinds: str) -> dict[str, bool]:
    """Advice to quantize further than now."""
    less = {"none": kinds, "8bit": kinds[:1], "4bit": ()}[quantization]
    return {f"quantization={' or '.join(less)} of the base": bool(less)}


def _shape(base: BaseModel) -> Shape | None:
    """From the config of a base on this machine; None for a family that cannot be estimated."""
    return shape_of(json.loads((Path(base.location) / "config.json").read_text(encoding="utf-8")))


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


def _mean_characters(path: Path) -> float:
    """Of a line."""
    with path.open(encoding="utf-8") as file:
        lengths = [len(line) for line in file]
    return sum(lengths) / max(1, len(lengths))
