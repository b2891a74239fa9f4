"""The fake Claude server as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backdoor_assets.storage.provenance import REPOSITORY


@contextmanager
def server_process(folder: Path, **config: Any) -> Iterator[str]:
    """Run the server as a separate process. Yields its address."""
    command = [
        sys.executable, "-m", "tests.claude_server", "--port", "0",
        "--config", json.dumps(config), "--state", str(folder / "state.json"),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def state(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/control/state") as reply:
        return json.load(reply)
