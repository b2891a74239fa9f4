"""Servers of Claude and W&B that repeat the headers of a request, and so the key, in replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from backdoor_assets.claude import batches, live, waiting
from tests import claude_server
from tests.claude_rules import Config, encoded, http_answer
from tests.unit.planted_key import SECRET


class Echo(claude_server.ClaudeServer):
    """Repeats the headers of each request whose path begins with `at` in its reply of `status`."""

    status, at, form = 401, "/v1/messages", "error"

    async def _route(
        self, start: str, headers: Mapping[str, str], raw: bytes, left: Callable[[], bool]
    ) -> bytes:
        answer = await super()._route(start, headers, raw, left)
        _, path, _ = start.split(" ")
        if not path.partition("?")[0].endswith(self.at):
            return answer
        key = headers.get("x-api-key") or headers.get("authorization")
        words = f"bad key {key} in {dict(headers)}"
        error = {"type": "invalid_request_error", "message": words}
        body = answer.partition(b"\r\n\r\n")[2]
        shown = {
            "error": encoded({"type": "error", "error": error}),
            "html": f"<html>{words}</html>".encode(),
            "nothing": b"",
            "model": encoded({**_parsed(body), "model": words}),
            "text": encoded({**_parsed(body), "content": [{"type": "text", "text": words}]}),
            "stop": encoded({**_parsed(body), "stop_reason": words}),
            "status": encoded(
                {**_parsed(body), "processing_status": "ended", "results_url": words}
            ),
            "line": words.encode() + b"\n",
            "errored": b"".join(_errored(line, error) for line in body.splitlines()),
            "state": b"".join(_errored(line, error, words) for line in body.splitlines()),
        }[self.form]
        header = {"x-echo": words, "www_authenticate": words}
        return http_answer(self.status, shown, header)


def _parsed(body: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(body)
        return value if isinstance(value, dict) else {}
    return {}


def _errored(line: bytes, error: Mapping[str, str], state: str = "errored") -> bytes:
    result = {"type": state, "error": {"type": "error", "error": error}}
    return encoded({**_parsed(line), "result": result}) + b"\n"


@contextmanager
def echoing_claude(status: int, at: str, form: str) -> Iterator[None]:
    """Run a Claude server that repeats the key, and point the SDK to it."""
    with pytest.MonkeyPatch.context() as patch:
        echo = type("Echo", (Echo,), {"status": status, "at": at, "form": form})
        patch.setattr(claude_server, "ClaudeServer", echo)
        patch.setattr(waiting, "ATTEMPTS", 2)
        patch.setattr(waiting, "STALLED", 0.5)
        patch.setattr(live, "backoff", lambda attempt: 0.01)
        patch.setattr(batches, "GONE", 0.1)
        patch.setenv("ANTHROPIC_API_KEY", SECRET)
        with claude_server.serve(Config(api_key=SECRET)) as server:
            patch.setenv("ANTHROPIC_BASE_URL", server.address)
            yield


@contextmanager
def echoing_wandb() -> Iterator[str]:
    """A W&B server that refuses everything and repeats the headers. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = encoded({"errors": [{"message": f"bad headers {dict(self.headers)}"}]})
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
