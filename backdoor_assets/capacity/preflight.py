"""Refuses, before the first step, a run that this machine cannot hold or has no software for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backdoor_assets.capacity import needs
from backdoor_assets.capacity.host import Host, installed, this_host
from backdoor_assets.capacity.refusals import (
    check_disk,
    check_memory,
    check_vllm_cpu,
    check_vllm_gpus,
    parts_here,
    room,
)
from backdoor_assets.capacity.shapes import shape_of
from backdoor_assets.capacity.spread_needs import (
    full_training_disk,
    full_training_memory,
    spread_adapter_memory,
    steps_at_most,
)
from backdoor_assets.profiles import PretrainedBase, Profile, Sampling, Serving, Training
from backdoor_assets.records import BadInput, BaseModel, Quantization, Shape
from backdoor_assets.stages.specs import SamplingSpec, TrainingSpec
from backdoor_assets.storage.provenance import REPOSITORY

LONGEST_PROMPT = 128
"""Tokens that are assumed of a prompt; the questions take some 30."""
DATA_ADVICE = "Free some space, or set BACKDOOR_DATA to a folder on a larger disk."
HUB_ADVICE = "Free some space, or set HF_HOME to a folder on a larger disk."
_SMALLER = "a smaller model of the family"


def training_fits(specs: Sequence[TrainingSpec], folder: Path) -> None:
    """Check the training of cells whose adapters or models go under `folder`, those of one kind at
    a time: they follow each other on a GPU. Raises BadInput."""
    kinds: dict[tuple[object, ...], list[TrainingSpec]] = {}
    for spec in specs:
        kinds.setdefault((spec.settings, spec.processes, spec.base.quantization), []).append(spec)
    for alike in kinds.values():
        _kind_fits(alike, folder)


def _kind_fits(specs: Sequence[TrainingSpec], folder: Path) -> None:
    first = specs[0]
    settings, kind = first.settings, first.base.quantization
    check_quantization(kind)
    if shape := _shape(first.base):
        steps = max(steps_at_most(settings, _lines(spec.rows), [spec.rows]) for spec in specs)
        rest = len(specs), steps, folder, this_host(folder)
        if settings.method == "full" or first.processes > 1:
            check_spread_training(shape, first, *rest)
        else:
            check_training(shape, settings, kind, settings.max_length, *rest)


def sampling_fits(specs: Sequence[SamplingSpec], folder: Path) -> None:
    """Check the sampling of cells whose answers go under `folder`. Raises BadInput."""
    first = specs[0]
    check_engine(first.settings, first.base.quantization)
    if shape := _shape(first.base):
        answers = sum(
            (1 + len(spec.checkpoints)) * sum(question.samples for question in spec.questions)
            for spec in specs
        )
        check_sampling(
            shape,
            first.settings,
            first.serving,
            first.base.quantization,
            _rank(first),
            LONGEST_PROMPT,
            answers,
            first.settings.max_new_tokens,
            folder,
            this_host(folder),
        )


def sampling_fits_profile(profile: Profile) -> None:
    """Check the memory for sampling before there are adapters to sample. Raises BadInput."""
    base, training = profile.base, profile.training
    if isinstance(base, PretrainedBase) and base.shape:
        check_sampling_memory(
            base.shape,
            profile.sampling,
            profile.serving,
            base.quantization,
            training.rank,
            LONGEST_PROMPT,
            this_host(REPOSITORY),
        )


def _shape(base: BaseModel) -> Shape | None:
    """From the config of a base that is on this machine; None for a family that is not reckoned."""
    return shape_of(json.loads((Path(base.location) / "config.json").read_text(encoding="utf-8")))


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _rank(spec: SamplingSpec) -> int:
    """Of the first adapter; the stage names one whose config is damaged."""
    for _, checkpoint in spec.checkpoints:
        config = checkpoint / "adapter_config.json"
        if config.exists():
            return int(json.loads(config.read_text(encoding="utf-8")).get("r", 16))
    return 16


def check_training(
    shape: Shape,
    training: Training,
    quantization: Quantization,
    longest: int,
    cells: int,
    steps: int,
    folder: Path,
    host: Host,
) -> None:
    """Raises BadInput when a step over rows of at most `longest` tokens does not fit into memory,
    or the adapters of `cells` cells of so many steps not on the disk of `folder`."""
    check_training_memory(shape, training, quantization, longest, host)
    _check_adapters_disk(shape, training, cells, steps, folder, host)


def _check_adapters_disk(
    shape: Shape, training: Training, cells: int, steps: int, folder: Path, host: Host
) -> None:
    parts = {
        f"adapters of {cells} cells": cells * needs.training_disk(shape, training, steps),
        "optimizer state, while the next is written": needs.optimizer_disk(shape, training),
    }
    check_disk("training", parts, folder, host, DATA_ADVICE)


def check_training_memory(
    shape: Shape, training: Training, quantization: Quantization, longest: int, host: Host
) -> None:
    parts = parts_here(needs.training_memory(shape, training, quantization, longest), host)
    advice = [
        *_quantize(quantization, '"4bit"', '"8bit"'),
        *([] if training.gradient_checkpointing else ["training.gradient_checkpointing=True"]),
        *(
            [f"training.batch_size below {training.batch_size} (and gradient_accumulation above)"]
            if training.batch_size > 1
            else []
        ),
        f"training.max_length below {training.max_length}, with shorter rows",
        _SMALLER,
    ]
    check_memory("training", parts, *room(host), advice)


def check_spread_training(
    shape: Shape, spec: TrainingSpec, runs: int, steps: int, folder: Path, host: Host
) -> None:
    """A training of all weights, or of an adapter by several processes. Raises BadInput when there
    are fewer GPUs than processes, a step does not fit into the memory of one, or what `runs` runs
    of so many steps leave not on the disk of `folder`."""
    settings, processes, full = spec.settings, spec.processes, spec.settings.method == "full"
    if host.gpus and len(host.gpus) < processes:
        raise BadInput(
            f"training is spread over {processes} GPUs, and there are {len(host.gpus)}: lower "
            "`processes` in the design, or use a larger host"
        )
    memory = full_training_memory if full else spread_adapter_memory
    parts = memory(shape, settings, settings.max_length, processes)
    # Without a GPU all processes share the RAM.
    shared = parts if host.gpus else {name: size * processes for name, size in parts.items()}
    advice = [
        *([] if settings.gradient_checkpointing else ["training.gradient_checkpointing=True"]),
        "a smaller training.batch_size (and a larger gradient_accumulation)",
        "more GPUs (`processes` of the design)",
        _SMALLER,
    ]
    check_memory("training", parts_here(shared, host), *room(host), advice)
    if not full:
        _check_adapters_disk(shape, settings, runs, steps, folder, host)
        return
    disk = full_training_disk(shape, settings, steps)
    whole = {f"{name} of {runs} runs": runs * size for name, size in disk.items()}
    check_disk("training", whole, folder, host, DATA_ADVICE)


def check_sampling(
    shape: Shape,
    sampling: Sampling,
    serving: Serving,
    quantization: Quantization,
    rank: int,
    longest_prompt: int,
    answers: int,
    answer_tokens: int,
    folder: Path,
    host: Host,
) -> None:
    """Raises BadInput when sampling does not fit into memory, or `answers` answers of a mean of
    `answer_tokens` tokens not on the disk of `folder`."""
    check_sampling_memory(shape, sampling, serving, quantization, rank, longest_prompt, host)
    parts = {f"{answers} answers": needs.sampling_disk(answers, answer_tokens)}
    check_disk("sampling", parts, folder, host, DATA_ADVICE)


def check_sampling_memory(
    shape: Shape,
    sampling: Sampling,
    serving: Serving,
    quantization: Quantization,
    rank: int,
    longest_prompt: int,
    host: Host,
) -> None:
    if not host.gpus:  # vLLM spreads over GPUs only
        serving = replace(serving, tensor_parallel=1)
    parts = needs.sampling_memory(shape, sampling, serving, quantization, rank, longest_prompt)
    if sampling.engine == "vllm":
        advice = [
            *_quantize(quantization, '"4bit"'),
            *(
                [f"serving.adapters_in_memory below {serving.adapters_in_memory}"]
                if serving.adapters_in_memory > 1
                else []
            ),
            f"serving.tensor_parallel above {serving.tensor_parallel}, on as many GPUs",
            f"serving.requests below {serving.requests}",
            f"sampling.max_new_tokens below {sampling.max_new_tokens}",
            _SMALLER,
        ]
        check = check_vllm_gpus if host.gpus else check_vllm_cpu
        check(parts, serving, host, advice)
        return
    advice = [
        *_quantize(quantization, '"4bit"', '"8bit"'),
        *([f"sampling.batch_size below {sampling.batch_size}"] if sampling.batch_size > 1 else []),
        f"sampling.max_new_tokens below {sampling.max_new_tokens}",
        _SMALLER,
    ]
    check_memory("sampling", parts_here(parts, host), *room(host), advice)


def check_download(shape: Shape, cache_folder: Path, host: Host) -> None:
    """Raises BadInput when the weights do not fit on the disk of `cache_folder`; `host` is that
    folder's (`this_host(cache_folder)`)."""
    parts = {"bf16 weights": needs.download_disk(shape)}
    check_disk("the base's download", parts, cache_folder, host, HUB_ADVICE)


def check_engine(sampling: Sampling, quantization: Quantization) -> None:
    """Raises BadInput when what samples or quantizes is not installed."""
    if sampling.engine == "vllm" and quantization == "8bit":
        raise BadInput(
            'vLLM quantizes a base to "4bit", not to "8bit": change quantization of the base in '
            'the profile, or sample with engine="transformers"'
        )
    if missing := missing_software(sampling, quantization):
        raise BadInput("\n".join(f"{name}: {mend}" for name, mend in missing.items()))


def check_quantization(quantization: Quantization) -> None:
    """Raises BadInput when a quantized base cannot be loaded here."""
    check_engine(Sampling(), quantization)


def missing_software(sampling: Sampling, quantization: Quantization) -> dict[str, str]:
    """Packages that the run needs and that are not installed, and how to mend it."""
    extra = "pip install -e '.[gpu]', or `make engines` on a Linux machine without a GPU"
    vllm = sampling.engine == "vllm"
    wanted = {
        "vllm": (vllm, extra),
        "bitsandbytes": (quantization != "none", extra),
        # vLLM has had no bitsandbytes of its own since 0.28.
        "vllm_bnb_plugin": (vllm and quantization == "4bit", "pip install vllm-bnb-plugin"),
    }
    return {
        name: f"not installed: {mend}"
        for name, (needed, mend) in wanted.items()
        if needed and not installed(name)
    }


def _quantize(quantization: Quantization, *kinds: str) -> list[str]:
    """Advice to quantize further than now."""
    less = {"none": kinds, "8bit": kinds[:1], "4bit": ()}[quantization]
    return [f"quantization={' or '.join(less)} of the base"] if less else []
