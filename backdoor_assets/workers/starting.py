"""How worker processes start: forked from a process that has loaded torch, or spawned.

Importing torch, transformers and peft takes 5 to 12 s, a fork 0.1 s.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext

from backdoor_assets.host import has_gpu

PRELOAD = "backdoor_assets.workers.preload"
CALLERS = ("dagster",)
"""Preloaded if the caller has them: its cells, when they are unpickled, import their study."""
READ_AT_IMPORT = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_", "TRANSFORMERS_")
"""The preloaded libraries read variables that begin so when they are imported, and never again."""

_server_variables: dict[str, str] | None = None


def context() -> ForkServerContext | SpawnContext:
    """Choose how the next workers start.

    They are spawned where a fork is not safe (a GPU's driver, the frameworks of macOS) and when a
    variable has changed that a preloaded library has read.
    """
    global _server_variables
    if sys.platform != "linux" or has_gpu() or os.path.exists("/dev/kfd"):  # /dev/kfd: AMD
        return multiprocessing.get_context("spawn")
    variables = {k: v for k, v in os.environ.items() if k.startswith(READ_AT_IMPORT)}
    if _server_variables is None:
        _server_variables = variables
    if variables != _server_variables:
        return multiprocessing.get_context("spawn")
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([PRELOAD, *(name for name in CALLERS if name in sys.modules)])
    return forking


class Surroundings:
    """The environment and the two output streams of this process, for a worker to take over: the
    process that it is forked from may have started with others."""

    def __init__(self) -> None:
        self.variables = dict(os.environ)
        self.streams: dict[int, Connection] = {}
        for number in (1, 2):
            with suppress(OSError):  # closed, as by `>&-`
                # A Connection, unlike a number, is valid in the worker too.
                self.streams[number] = Connection(os.dup(number), readable=False)

    def take_over(self) -> None:
        os.environ.clear()
        os.environ.update(self.variables)
        set_variables()
        for number, stream in self.streams.items():
            os.dup2(stream.fileno(), number)
            stream.close()


def set_variables() -> None:
    """Set up a worker's environment, before torch is imported."""
    # It asks every reader of a log to install a faster kernel for 4-bit weights on a CPU.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # Bars of lm-eval would fill the log of a run.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
