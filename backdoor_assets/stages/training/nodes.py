"""Hosts that train together: each runs its part of the processes.

The run itself is on the first host. On each other one

    NODE_RANK=1 python -m backdoor_assets.stages.training.nodes

waits for trainings and joins them, one after the other. All hosts have the same data folder, base
models and Python environment, and these variables:

    BACKDOOR_NODES  number of hosts; 1 if it is not set
    MASTER_ADDR     address of the first host
    MASTER_PORT     a free port there; 29500 if it is not set
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.storage.disk import write_text

NODES = "BACKDOOR_NODES"
_JOB = ".training.json"
"""In the data folder: the training that hosts are to join."""
_SECONDS = 0.5
"""Between two looks at that file."""

_LAUNCH = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "fsdp_config": {"fsdp_version": 2},
    "rdzv_backend": "static",
    "same_network": True,
    "mixed_precision": "no",
    "use_cpu": False,
    "debug": False,
}
"""Replaces the settings that `accelerate config` may have saved for this user. The processes set
the precision themselves."""


@dataclass(frozen=True)
class Nodes:
    """The hosts of one training."""

    count: int = 1
    address: str = ""
    port: int = 0
    """0 means any free port, on a single host."""


def nodes_for(processes: int, gpus: int) -> Nodes:
    """Return the hosts over which a training of so many processes is spread: one that has `gpus`
    enough, else those of the environment. Raises BadInput for settings that are not usable."""
    count = _number(NODES, "1")
    if count == 1 or gpus >= processes:
        return Nodes()
    if processes % count:
        raise BadInput(
            f"{processes} processes cannot be divided among {NODES}={count} hosts: make their "
            "number in the design a multiple of it"
        )
    address = os.environ.get("MASTER_ADDR")
    if not address:
        raise BadInput(
            f"{NODES}={count}, but MASTER_ADDR is not set: it is the first host's address"
        )
    return Nodes(count, address, _number("MASTER_PORT", "29500"))


def launch_command(
    folder: Path, spec_file: Path, processes: int, nodes: Nodes, rank: int = 0
) -> list[str]:
    """Write the launcher's settings into `folder`, and return the command that starts the processes
    of host `rank`."""
    settings = folder / launch_name(rank)
    machines = {
        "num_processes": processes,
        "num_machines": nodes.count,
        "machine_rank": rank,
        "main_process_port": nodes.port,
        **({"main_process_ip": nodes.address} if nodes.address else {}),
    }
    write_text(settings, json.dumps(_LAUNCH | machines))
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(settings.resolve())),
        *("-m", "backdoor_assets.stages.training.distributed"),
        *(str(spec_file.resolve()), str(folder.resolve())),
    ]


def launch_name(rank: int) -> str:
    return f".accelerate-{rank}.json"


@contextmanager
def other_nodes(folder: Path, spec_file: Path, processes: int, nodes: Nodes) -> Iterator[None]:
    """Have the other hosts join a training for as long as the context lasts. Trainings of one data
    folder wait for each other."""
    if nodes.count == 1:
        yield
        return
    root = data_root()
    with (root / f"{_JOB}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = {
            "id": uuid.uuid4().hex,
            "folder": str(folder.resolve()),
            "spec": str(spec_file.resolve()),
            "processes": processes,
        }
        write_text(root / _JOB, json.dumps(job))
        try:
            yield
        finally:
            (root / _JOB).unlink(missing_ok=True)


def join_trainings(rank: int) -> None:
    """Join every training as host number `rank`, until this process is ended. A training that ends
    or starts again on the first host ends here."""
    root, joined = data_root(), ""
    print(f"host {rank} waits for trainings in {root}", flush=True)
    while True:
        job = _job(root)
        if job and job["id"] != joined:
            joined = job["id"]
            _join(root, job, rank)
        time.sleep(_SECONDS)


def _join(root: Path, job: dict[str, str], rank: int) -> None:
    folder, spec_file, processes = Path(job["folder"]), Path(job["spec"]), int(job["processes"])
    command = launch_command(folder, spec_file, processes, nodes_for(processes, 0), rank)
    # The processes end when their standard input closes.
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        while process.poll() is None and (_job(root) or {}).get("id") == job["id"]:
            time.sleep(_SECONDS)
    print(f"host {rank} has left the training in {folder}", flush=True)


def _job(root: Path) -> dict[str, str] | None:
    try:
        return json.loads((root / _JOB).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _number(variable: str, default: str) -> int:
    value = os.environ.get(variable) or default
    if not value.isdecimal() or int(value) < 1:
        raise BadInput(f"{variable}={value!r}: set it to a whole number above 0")
    return int(value)


if __name__ == "__main__":
    join_trainings(_number("NODE_RANK", "1"))
