"""Processes forked from one that has loaded the libraries, which takes them a tenth of a second."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.workers.starting import PRELOAD, Surroundings, context

LOADED = (
    PRELOAD, "anthropic", "backdoor_assets.claude.judge", "backdoor_assets.commands.demo",
    # Workers load these when they need them, those of the tests hundreds of times.
    "scipy.stats", "seaborn", "transformers.models.qwen3.modeling_qwen3",
)  # fmt: skip
"""What is not installed is left out."""
SERVER: Any = forkserver._forkserver
"""Python's own client of the process that others are forked from."""
ACCESS = "_forkserver_address", "_forkserver_authkey"
"""What it needs to reach that process; the key since Python 3.14."""


def forking() -> ForkServerContext:
    """Return where processes come from, and let it load. They have the environment of its first
    call. Workers of this process, and of a `ModuleRun`, are forked from there too."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(LOADED))
    SERVER.ensure_running()
    return server


class ModuleRun:
    """The `main` of a module as `python -m` runs it, but for loading the libraries; and what it and
    the processes that it starts write. Most methods are those of `subprocess.Popen`."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        stderr: Path | None = None,
    ) -> None:
        """Errors go to `stderr`, else to the output."""
        self.args = [module, *arguments]
        self._said = bytearray()
        self._output, theirs = multiprocessing.Pipe(duplex=False)
        self._process = forking().Process(
            target=_main, args=(self.args, environment, _access(), theirs, stderr)
        )
        self._process.start()
        theirs.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def interrupt(self) -> None:
        """Do what Ctrl-C does, and a Dagster that ends a run."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGINT)

    def wait(self) -> None:
        self._process.join()

    def read_until(self, text: str, timeout: float) -> None:
        """Wait until the process has written a text."""
        end = time.monotonic() + timeout
        while text.encode() not in self._said:
            if not self._read(end):
                raise EOFError(f"{text!r} is not in {self._said.decode()!r}")

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Wait until the process and all that it started have ended; return all they wrote."""
        end = time.monotonic() + timeout
        while self._read(end):
            pass
        self._process.join()
        return self._said.decode(), None

    def _read(self, end: float) -> bool:
        """Read on. Return whether there may be more; kill the process if it writes nothing until
        then."""
        if not wait([self._output], end - time.monotonic()):
            self.kill()
            raise subprocess.TimeoutExpired(self.args, 0, bytes(self._said))
        data = os.read(self._output.fileno(), 2**16)
        self._said += data
        return bool(data)


def run_module(
    module: str, arguments: Sequence[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the `main` of a module to its end."""
    with TemporaryDirectory() as folder:
        stderr = Path(folder, "stderr")
        run = ModuleRun(module, arguments, environment, stderr)
        stdout, _ = run.communicate(timeout=1800)
        code = run.poll()
        assert code is not None
        return subprocess.CompletedProcess(run.args, code, stdout, stderr.read_text())


def _access() -> dict[str, Any]:
    forking()
    return {name: value for name, value in vars(SERVER).items() if name in ACCESS}


def _main(
    command: list[str],
    environment: dict[str, str],
    server: dict[str, Any],
    output: Connection,
    stderr: Path | None,
) -> None:
    context()  # Workers are spawned if they need other variables than those of the server.
    # Python would start a second server, though it says that a child uses its parent's.
    vars(SERVER).update(server)
    SERVER.ensure_running = lambda: None
    surroundings = Surroundings()
    surroundings.variables = environment
    errors = os.open(stderr, os.O_WRONLY | os.O_CREAT) if stderr else os.dup(output.fileno())
    surroundings.streams = {1: output, 2: Connection(errors, readable=False)}
    surroundings.take_over()
    os.chdir(REPOSITORY)
    sys.argv = command
    main: Callable[[], int] = import_module(command[0]).main
    sys.exit(main())
