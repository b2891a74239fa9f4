"""What this machine has: GPUs, memory, cores, disk. Asks the system; imports no heavy library."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from backdoor_assets.storage.disk import disk_free

MIB = 2**20
CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of containers and batch jobs (version 2)."""


@dataclass(frozen=True)
class Gpu:
    name: str
    total: int
    """Bytes, as are all sizes here."""
    free: int


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
    """This machine, and the free space of the disk on which `folder` lies or will lie."""
    linux = sys.platform == "linux"
    return Host(
        gpus=_gpus(),
        memory_available=min([psutil.virtual_memory().available, *_memory_limits()]),
        cores=len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1,
        disk_free=disk_free(folder),
    )


def installed(package: str) -> bool:
    """Whether the package can be imported, without importing it."""
    return find_spec(package) is not None


def _memory_limits() -> Iterator[int]:
    """Yield the bytes that each control group of this process still grants, where it has a limit.
    What the kernel caches of files counts as used there, but gives way."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::/")[2].strip()
        folder = CONTROL_GROUPS / own
        for group in (folder, *folder.parents):
            limit = group / "memory.max"
            if limit.exists() and (most := limit.read_text(encoding="utf-8").strip()) != "max":
                lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
                uses = {name: int(size) for name, size in map(str.split, lines)}
                used = int((group / "memory.current").read_text(encoding="utf-8"))
                yield max(0, int(most) - used + uses["active_file"] + uses["inactive_file"])
    except (OSError, ValueError, KeyError):
        return


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show this process; none where nvidia-smi is absent or fails."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible or visible.startswith("-")):
        return ()
    command = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,memory.free",
        "--format=csv,noheader,nounits",
        *([f"--id={visible}"] if visible else []),
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        rows = [[cell.strip() for cell in row] for row in csv.reader(answer.stdout.splitlines())]
        return tuple(Gpu(name, int(total) * MIB, int(free) * MIB) for name, total, free in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
