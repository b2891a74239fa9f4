"""Every host of a cluster proves that it sees the same data, code and base models as this one.

And that files can be locked and renamed over the shared file system as artifacts need it: a lock
that this host holds is refused to the others, and what they rename is seen here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.storage.hashing import digest, file_hash
from backdoor_assets.workers.messages import Log
from backdoor_assets.workers.ray_cluster import connect, wait_for_answer
from backdoor_assets.workers.spreading import RAY

PACKAGES = "torch", "transformers", "peft", "vllm", "bitsandbytes"
"""Their versions must be the same on all hosts: results depend on them."""
SECONDS = 120.0
"""What a host has to answer."""


def check_cluster(bases: Sequence[str], log: Log) -> None:
    """Raise BadInput that names each host of the cluster that sees another data folder, other code
    or packages, or lacks a base model, and says if locks or renames do not work there. `bases` are
    folders of models. A host that is lost while it is asked is left out: it gets no work."""
    address = os.environ[RAY]
    ray = connect(address)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    wrong: list[str] = []
    proved = 0
    with _proof() as folder:
        examine = ray.remote(num_cpus=0, max_retries=0)(_examine)
        pin = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        answers = {
            f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": examine.options(
                scheduling_strategy=pin(node["NodeID"], soft=False)
            ).remote(str(folder), list(bases), node["NodeID"])
            for node in nodes
        }
        ours = look(list(bases))
        for (name, answer), node in zip(answers.items(), nodes, strict=True):
            try:
                wait_for_answer(ray, [answer], SECONDS)
                theirs = ray.get(answer, timeout=1)
            except ray.exceptions.RayError as error:
                if not _alive(ray, node["NodeID"]):
                    log(
                        f"{name}: this host of the cluster was lost while it was asked what it sees"
                    )
                elif isinstance(error, ray.exceptions.GetTimeoutError):
                    wrong.append(f"{name}: it does not answer within {SECONDS:.0f} s")
                else:
                    wrong.append(f"{name}: {str(error).strip().splitlines()[-1]}")
            else:
                proved += 1
                renamed = (folder / node["NodeID"]).exists()
                wrong += [f"{name}: {line}" for line in _differences(ours, theirs, folder, renamed)]
    if not (wrong or proved):
        wrong = ["all of its hosts were lost while they were asked what they see"]
    if wrong:
        raise BadInput(
            f"{RAY}={address}: not every host of the cluster can do this work.\n"
            + "\n".join(f"  {line}" for line in wrong)
        )
    log(f"hosts of the cluster that see the same data, code and models: {proved}")


def _alive(ray: Any, node_id: str) -> bool:
    return any(node["Alive"] and node["NodeID"] == node_id for node in ray.nodes())


def look(bases: Sequence[str]) -> dict[str, Any]:
    """Return what a host has: digest of this package's code, versions, configs of base models."""
    package = Path(__file__).resolve().parents[1]
    code = {str(p.relative_to(package)): file_hash(p) for p in sorted(package.rglob("*.py"))}
    configs = {base: Path(base, "config.json") for base in bases}
    return {
        "code": digest(code)[:12],
        "packages": {name: _version(name) for name in PACKAGES},
        "bases": {b: file_hash(path) if path.exists() else None for b, path in configs.items()},
    }


@contextmanager
def _proof() -> Iterator[Path]:
    """Make a folder in the data folder with a file that this process holds a lock on."""
    folder = data_root() / f".cluster-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _examine(folder: str, bases: Sequence[str], name: str) -> dict[str, Any]:
    """Look at a host, on that host: at the folder of `_proof` too, in which a file is renamed."""
    seen = Path(folder, "lock").exists()
    if seen:
        Path(folder, f"{name}.part").touch()
        os.replace(Path(folder, f"{name}.part"), Path(folder, name))
    return {**look(bases), "seen": seen, "locks": seen and _refused(Path(folder, "lock"))}


def _refused(path: Path) -> bool:
    """Whether the lock that another host holds is refused."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _differences(
    ours: dict[str, Any], theirs: dict[str, Any], folder: Path, renamed: bool
) -> Iterator[str]:
    root = folder.parent
    if not theirs["seen"]:
        yield f"it does not see this host's data folder {root}; mount the same file system there"
        return
    if not theirs["locks"]:
        yield f"locks in {root} do not reach it; mount the file system with locks (NFS: version 4)"
    if not renamed:
        yield f"what it renames in {root} is not seen here"
    if theirs["code"] != ours["code"]:
        yield f"its code is {theirs['code']}, this host's {ours['code']}; install the same version"
    for name, here in ours["packages"].items():
        if theirs["packages"][name] != here:
            yield f"it has {name} {theirs['packages'][name] or 'not'} installed, this host {here}"
    for base, content in ours["bases"].items():
        if theirs["bases"][base] != content:
            yield f"the base model {base} is not there, or another; set HF_HOME to a shared folder"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
