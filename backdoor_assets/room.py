"""What is needed against what there is, and the words of a refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from backdoor_assets.host import Host
from backdoor_assets.needs import CUDA_CONTEXT, GIB
from backdoor_assets.records import BadInput


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
