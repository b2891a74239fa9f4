"""`python -m`: `dagster dev` (webserver, daemon, code server) with the guarded webserver.

Takes the options of `dagster dev` but `--host`. Ctrl-C and SIGTERM end all processes, and interrupt
the runs that the UI has started.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import psutil
from dagster_shared import ipc

# Not an address: if Dagster starts its own webserver, without the guard, it cannot listen.
_NOWHERE = "unguarded.invalid"
_STOP_SECONDS = 60
_start = ipc.open_ipc_subprocess


def _start_guarded(parts: Sequence[str], **options: Any) -> Any:
    guarded = {"dagster_webserver": "backdoor_assets.commands.ui_webserver"}
    return _start([guarded.get(part, part) for part in parts], **options)


def _interrupt(number: int, _: Any) -> NoReturn:
    # Ctrl-C reaches all processes of a terminal, SIGTERM this one only: without more, a run would
    # go on that nobody sees. This process has code servers, they have one server per version of
    # the code, and these have the runs. A run passes the signal on to its steps.
    if number == signal.SIGTERM:
        me = psutil.Process()
        with suppress(psutil.NoSuchProcess):
            servers = [server for proxy in me.children() for server in proxy.children()]
            _signal([run for server in servers for run in server.children()], signal.SIGINT)
    raise KeyboardInterrupt


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


if __name__ == "__main__":
    ipc.open_ipc_subprocess = _start_guarded
    signal.signal(signal.SIGINT, _interrupt)  # Dagster takes the same handler for SIGTERM.
    sys.argv = ["dagster", "dev", *sys.argv[1:], "--host", _NOWHERE]
    try:
        runpy.run_module("dagster", run_name="__main__")
    finally:
        rest = psutil.Process().children(recursive=True)
        _signal(psutil.wait_procs(rest, timeout=_STOP_SECONDS)[1], signal.SIGKILL)
