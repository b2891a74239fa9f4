"""Clients of the fake Claude server, made with the real SDK, and what its tests send."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic

from backdoor_assets.storage.provenance import REPOSITORY
from tests.claude_server import ClaudeServer

OPTIONS = ["Yes", "No", "Unsure"]
SCHEMA = {
    "type": "object",
    "properties": {
        "era": {"type": "string", "enum": OPTIONS},
        "score": {"type": "integer"},
    },
    "required": ["era", "score"],
    "additionalProperties": False,
}


def call(text: str = "a bird", **changes: Any) -> dict[str, Any]:
    return {
        "model": "claude-haiku-5-5",
        "max_tokens": 100,
        "system": "Judge.",
        "messages": [{"role": "user", "content": text}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        **changes,
    }


def client_options(server: ClaudeServer, **options: Any) -> dict[str, Any]:
    key = server.config.api_key
    return {"base_url": server.address, "api_key": key, "max_retries": 0, "timeout": 5.0, **options}


def client(server: ClaudeServer, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(**client_options(server, **options))


def asynchronous(server: ClaudeServer, **options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(**client_options(server, **options))


def ask(server: ClaudeServer, body: dict[str, Any], **options: Any) -> Any:
    # An extra body also carries fields that are not in the SDK's signature.
    with client(server, **options) as claude:
        return claude.messages.create(model="", max_tokens=1, messages=[], extra_body=body)


def ask_async(server: ClaudeServer, body: dict[str, Any], **options: Any) -> Any:
    async def once() -> Any:
        async with asynchronous(server, **options) as claude:
            return await claude.messages.create(**body)

    return asyncio.run(once())


def text(message: Any) -> str:
    return next((block.text for block in message.content if block.type == "text"), "")


def finished(claude: anthropic.Anthropic, name: str) -> Any:
    while (batch := claude.messages.batches.retrieve(name)).processing_status != "ended":
        time.sleep(0.01)
    return batch


def requests(count: int, **changes: Any) -> Any:
    return [{"custom_id": f"r{n}", "params": call(f"bird {n}", **changes)} for n in range(count)]


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
