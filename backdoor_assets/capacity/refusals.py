"""What is needed against what there is, and the words of a refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from backdoor_assets.capacity.host import Host
from backdoor_assets.capacity.needs import CUDA_CONTEXT, GIB, KV_CACHE
from backdoor_assets.records import BadInput
from backdoor_assets.settings import Serving


def check_disk(what: str, parts: Mapping[str, int], folder: Path, host: Host, advice: str) -> None:
    """Raises BadInput when the parts do not fit on the disk of `folder`."""
    needed = sum(parts.values())
    if needed > host.disk_free:
        raise BadInput(
            f"{what} needs {gib(needed)} of disk, and there are {gib(host.disk_free)} free under "
            f"{folder}\n{_table(parts)}\n{advice}"
        )


def check_memory(
    what: str, parts: Mapping[str, int], limit: int, there: str, advice: Sequence[str]
) -> None:
    """Raises BadInput when the parts do not fit into `limit` bytes, which are `there`."""
    needed = sum(parts.values())
    if needed > limit:
        raise BadInput(
            f"{what} needs {gib(needed)} of memory, and there are {gib(limit)} {there}\n"
            f"{_table(parts)}\nWhat needs less, in the profile: {'; '.join(advice)}."
        )


def check_vllm_gpus(
    parts: Mapping[str, int], serving: Serving, host: Host, advice: Sequence[str]
) -> None:
    """vLLM takes its share of each GPU whole: needs must fit into it, and it must be free."""
    if len(host.gpus) < serving.tensor_parallel:
        raise BadInput(
            f"sampling: serving.tensor_parallel={serving.tensor_parallel} GPUs, and there are "
            f"{len(host.gpus)}; lower it in the profile"
        )
    largest = sorted(host.gpus, key=lambda gpu: gpu.total)[-serving.tensor_parallel :]
    for gpu in largest:
        share = int(serving.memory_share * gpu.total)
        there = f"in serving.memory_share={serving.memory_share:g} of {gpu.name}"
        check_memory("sampling", parts, share, there, advice)
        if gpu.free < share:
            raise BadInput(
                f"sampling: vLLM takes {gib(share)} of {gpu.name} "
                f"(serving.memory_share={serving.memory_share:g}), and {gib(gpu.free)} are free; "
                "end what else uses it, or lower serving.memory_share in the profile"
            )


def check_vllm_cpu(
    parts: Mapping[str, int], serving: Serving, host: Host, advice: Sequence[str]
) -> None:
    """On a CPU the KV cache has the size that the profile gives it."""
    cache = serving.cpu_cache_gib * GIB
    if cache < parts[KV_CACHE]:
        raise BadInput(
            f"sampling: the KV cache of one answer takes {gib(parts[KV_CACHE])}, and "
            f"serving.cpu_cache_gib={serving.cpu_cache_gib}; raise it, or lower "
            "sampling.max_new_tokens, in the profile"
        )
    check_memory("sampling", {**parts, KV_CACHE: cache}, *room(host), advice)


def room(host: Host) -> tuple[int, str]:
    """Bytes that there are, and where: the largest GPU's free memory, else the RAM's."""
    gpu = max(host.gpus, key=lambda gpu: gpu.free, default=None)
    if gpu is None:
        return host.memory_available, "of RAM available (there is no GPU)"
    return gpu.free, f"free on {gpu.name}"


def parts_here(parts: Mapping[str, int], host: Host) -> dict[str, int]:
    """The parts without what only a GPU takes, where there is none."""
    return {name: size for name, size in parts.items() if host.gpus or name != CUDA_CONTEXT}


def gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _table(parts: Mapping[str, int]) -> str:
    width = max(map(len, parts))
    return "\n".join(f"  {name:<{width}}  {gib(size):>12}" for name, size in parts.items())
