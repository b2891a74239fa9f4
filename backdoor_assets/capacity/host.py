"""What this machine has: GPUs, memory, cores, disk. Asks the system, imports no heavy library."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from backdoor_assets.storage.disk import disk_free

MIB = 2**20


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
    """RAM that can be had without swapping."""
    cores: int
    """Those that this process may use."""
    disk_free: int
    """Where the host was asked about."""


def this_host(folder: Path) -> Host:
    """This machine, and the free space of the disk on which `folder` lies or will lie."""
    linux = sys.platform == "linux"
    return Host(
        gpus=_gpus(),
        memory_available=psutil.virtual_memory().available,
        cores=len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1,
        disk_free=disk_free(folder),
    )


def installed(package: str) -> bool:
    """Whether the package can be imported, without importing it."""
    return find_spec(package) is not None


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
