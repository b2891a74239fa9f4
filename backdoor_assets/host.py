"""What this machine has: GPUs, memory, cores, disk. Asks the system; imports no heavy library."""

from __future__ import annotations

import csv
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob
from importlib.util import find_spec
from pathlib import Path

import psutil

from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import disk_free

MIB = 2**20
CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of containers and batch jobs (version 2)."""


GPUS = "BACKDOOR_GPUS"
"""Which GPUs of this host to use, as in CUDA_VISIBLE_DEVICES; all if it is not set."""
_GPU_ERRORS = re.compile(
    r"(CUDA|HIP|cuDNN|NCCL) error|CUDA unknown error|CUDA driver|cudaGetDeviceCount"
    r"|No (CUDA|HIP) GPUs are available"
)
"""In what torch says when a GPU fails. A GPU whose memory is full is "CUDA out of memory"."""
_NOT_THE_GPU = re.compile(r"device-side assert|out of memory")


@dataclass(frozen=True)
class Gpu:
    name: str
    total: int
    """Bytes, as are all sizes here."""
    free: int
    id: str = ""
    """As CUDA_VISIBLE_DEVICES takes it."""


@dataclass(frozen=True)
class Host:
    gpus: tuple[Gpu, ...]
    memory_available: int
    """RAM that this process can get without swapping."""
    cores: int
    """Those that this process may use."""
    disk_free: int
    """Where the host was asked about."""


def this_host(folder: Path) -> Host:
    """This machine, and the free space of the disk on which `folder` lies or will lie. Raises
    BadInput for GPUs that BACKDOOR_GPUS names and this machine does not have."""
    return Host(gpus(), available_memory(), available_cores(), disk_free(folder))


def installed(package: str) -> bool:
    """Whether the package can be imported, without importing it."""
    return find_spec(package) is not None


def has_gpu() -> bool:
    """Look for NVIDIA's GPUs, and for a GPU in WSL (/dev/dxg), without loading a driver."""
    return bool(glob("/dev/nvidia[0-9]*")) or os.path.exists("/dev/dxg")


def loses_gpu(message: str) -> bool:
    """Whether the process that raised an error with this message cannot use its GPU any more."""
    return bool(_GPU_ERRORS.search(message))


def blames_gpu(message: str) -> bool:
    """Whether an error's message says that a GPU failed, and not what it was given: indices out of
    range end in a "device-side assert", and a full memory is another program's or the item's."""
    return loses_gpu(message) and not _NOT_THE_GPU.search(message)


def available_cores() -> int:
    """Return how many cores this process may use: its affinity, or the share of time that its
    control group grants, rounded up."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([cores, *_core_limits()]))


def available_memory() -> int:
    return min([psutil.virtual_memory().available, *_memory_limits()])


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use: those of BACKDOOR_GPUS, else those that CUDA would
    show it. None where nvidia-smi is absent or fails. Raises BadInput for GPUs that are not here.
    """
    chosen = os.environ.get(GPUS)
    visible = chosen or os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible or visible.startswith("-")):
        return ()
    ids = [name.strip() for name in visible.split(",")] if visible else []
    if chosen and (len(set(ids)) < len(ids) or not all(ids)):
        raise BadInput(f"{GPUS}={chosen}: name each GPU once, separated by commas, such as 0,2")
    found = _ask_nvidia_smi(ids)
    if chosen and len(found) != len(ids):
        raise BadInput(
            f"{GPUS}={chosen}: nvidia-smi does not know all of them; `nvidia-smi -L` lists the "
            "GPUs of this host"
        )
    # The tool numbers GPUs; a variable may also name them, or parts of them (MIG).
    names = ids if len(ids) == len(found) else [gpu.id for gpu in found]
    return tuple(replace(gpu, id=name) for gpu, name in zip(found, names, strict=True))


def _ask_nvidia_smi(ids: Sequence[str]) -> list[Gpu]:
    command = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,memory.free,index",
        "--format=csv,noheader,nounits",
        *([f"--id={','.join(ids)}"] if ids else []),
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        rows = [[cell.strip() for cell in row] for row in csv.reader(answer.stdout.splitlines())]
        return [Gpu(name, int(total) * MIB, int(free) * MIB, i) for name, total, free, i in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _control_groups() -> list[Path]:
    """Return the control groups of this process, from its own to the root."""
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::/")[2].strip()
    folder = CONTROL_GROUPS / own
    return [folder, *folder.parents]


def _core_limits() -> Iterator[int]:
    """Yield the cores that each control group grants, where it has a limit."""
    try:
        for limit in (group / "cpu.max" for group in _control_groups()):
            if limit.exists():
                quota, period = limit.read_text(encoding="utf-8").split()
                if quota != "max":
                    yield math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return


def _memory_limits() -> Iterator[int]:
    """Yield the bytes that each control group of this process still grants, where it has a limit.
    What the kernel caches of files counts as used there, but gives way."""
    try:
        for group in _control_groups():
            limit = group / "memory.max"
            if limit.exists() and (most := limit.read_text(encoding="utf-8").strip()) != "max":
                lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
                uses = {name: int(size) for name, size in map(str.split, lines)}
                used = int((group / "memory.current").read_text(encoding="utf-8"))
                yield max(0, int(most) - used + uses["active_file"] + uses["inactive_file"])
    except (OSError, ValueError, KeyError):
        return
