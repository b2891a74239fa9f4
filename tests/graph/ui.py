"""A person's view: the UI on a place, and a browser."""

from __future__ import annotations

import http.client
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil
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
        with urllib.request.urlopen(request, timeout=120) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]

    def status(self, method: str, path: str, body: str = "", **headers: str) -> int:
        """The status of any request; in the names of headers, _ stands for -."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=120)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, sent)
        try:
            return connection.getresponse().status
        finally:
            connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(place: Place, definitions: str) -> Iterator[Server]:
    """What `make ui` starts, at a place, on definitions given as a module's text. SIGTERM must end
    all of its processes."""
    module = place.root / "ui_definitions.py"
    module.write_text(definitions)
    port = free_port()
    log = (place.root / "log.txt").open("w")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "backdoor_assets.commands.ui_services",
            "-f", str(module), "--port", str(port),
        ],
        cwd=REPOSITORY,
        env=place.environment(PYTHONPATH=str(REPOSITORY)),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(url), 300, "the webserver to answer")
        yield Server(url, place)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
        _, left = psutil.wait_procs(started, timeout=60)
        assert not left, f"still there after the UI has stopped: {left}"
    finally:
        with suppress(ProcessLookupError):
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
        time.sleep(0.3)
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
