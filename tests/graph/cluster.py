"""A Ray cluster on loopback, and a link to it that can be cut."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from backdoor_assets.records import BadInput, Progress
from tests.graph.conftest import REPOSITORY

RAY = Path(sys.executable).with_name("ray")
GPUS = 2
"""Logical ones, per node."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Cluster:
    """A head and more nodes, each a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.client_port = free_port(), 9000 + os.getpid() % 900
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._started = 0
        (folder / "token").write_text(secrets.token_hex(32))
        self.access = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        }
        """Variables of whoever may use it."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the head and one more node."""
        self.add(
            "--head",
            f"--port={self.port}",
            f"--ray-client-server-port={self.client_port}",
            "--include-dashboard=false",
            f"--temp-dir=/tmp/ray-{os.getpid()}",  # Paths of sockets must be short.
        )
        _until_open(self.client_port)
        self.add(f"--address={self.address}")

    def add(self, *arguments: str, before: str = "") -> None:
        """Start a node, and wait until it is part of the cluster; `before` is shell code that runs
        first in a file system of its own."""
        command = [
            *(str(RAY), "start", "--block", "--disable-usage-stats", f"--num-gpus={GPUS}"),
            *("--num-cpus=2", "--object-store-memory=100000000", *arguments),
        ]
        if before:
            command = ["unshare", "--mount", "sh", "-c", f'{before} && exec "$@"', "sh", *command]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BACKDOOR_")},
            **self.access,
            "PYTHONPATH": str(REPOSITORY),
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",  # on a busy machine
            "GRPC_ENABLE_FORK_SUPPORT": "false",  # see docs/deployment.md
        }
        self._started += 1
        path = self.folder / f"node-{self._started}.log"
        with path.open("wb") as log:
            self.nodes.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )
        _until(lambda: b"Ray runtime started." in path.read_bytes())

    def hold(self, ray: Any) -> list[Any]:
        """Take all GPUs, as another run may, and return one task for each. Ray ends a task when it
        is cancelled, or this process disconnects."""
        task = ray.remote(num_cpus=0, num_gpus=1)(lambda: time.sleep(600))
        tasks = [task.remote() for _ in range(GPUS * len(self.nodes))]
        _until(lambda: not ray.available_resources().get("GPU"))
        return tasks

    def actors(self) -> list[psutil.Process]:
        """The processes of this project's actors on all nodes."""
        found = []
        for node in self.nodes:
            for process in psutil.Process(node.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # It may just have ended.
                    if "ray::Seat" in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def freeze(self, number: int) -> None:
        """Stop a node's daemon where it stands: whoever asks it something waits."""
        [daemon] = [
            process
            for process in psutil.Process(self.nodes[number].pid).children(recursive=True)
            if process.name() == "raylet"
        ]
        daemon.suspend()

    def kill(self, number: int) -> None:
        """Kill a node with all that runs on it."""
        node = self.nodes.pop(number)
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        while self.nodes:
            self.kill(-1)


def refuse(specs: Sequence[object], folder: Path) -> None:
    """A check that no host passes."""
    raise BadInput(f"{specs[0]} does not fit in {folder}")


def touch(path: Path, progress: Progress) -> None:
    """Work that leaves a mark."""
    path.touch()


class Link:
    """Passes a TCP port on, and can be cut."""

    def __init__(self, target: int) -> None:
        self.target, self.whole = target, True
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        self.whole = False
        for end in self._pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()
        time.sleep(seconds)
        self.whole = True

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if not self.whole:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _until_open(port: int) -> None:
    def is_open() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    _until(is_open)


def _until(holds: object) -> None:
    assert callable(holds)
    end = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < end, "the cluster did not start"
        time.sleep(0.3)
