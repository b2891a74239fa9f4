"""A person's view: Dagster's webserver on a place, and a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.graph.conftest import REPOSITORY, Place

REQUIRED = os.environ.get("REQUIRE_ENGINES") == "1"
CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    url: str
    place: Place

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """A GraphQL request."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(place: Place, definitions: str) -> Iterator[Server]:
    """`dagster dev` at a place, on definitions given as a module's text."""
    module = place.root / "ui_definitions.py"
    module.write_text(definitions)
    port = free_port()
    log = (place.root / "log.txt").open("w")
    process = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "dagster"), "dev", "-f", str(module),
            "--host", "127.0.0.1", "--port", str(port),
        ],
        cwd=REPOSITORY,
        env=place.environment(PYTHONPATH=str(REPOSITORY)),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(url), 90, "the webserver to answer")
        yield Server(url, place)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=5):
            return True
    except OSError:
        return False


def wait_for(ready: Any, seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(1)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")


@contextmanager
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if REQUIRED:
            pytest.fail("REQUIRE_ENGINES=1, but there is no chromium")
        pytest.skip("no chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield opened
        opened.close()
