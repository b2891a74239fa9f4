"""Fake Claude server: the Messages and Message Batches APIs with errors, faults and bills.

    with serve(Config(faults={"overloaded": 0.2})) as server:  # in a test; server.billed, .outcomes
    python -m tests.claude_server --port 0 --config '{"latency": 0.1}' --state FILE  # standalone

Standalone, it prints its address, and writes its counters to FILE and to GET /control/state; POST
/control/config changes its config. It survives the death of clients and, like the real API, still
answers and bills a call whose client has disconnected. The faults depend on the seed, the call and
how often that call was made, not on the order in which different calls arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.claude_api import ClaudeApi
from tests.claude_rules import (
    Config,
    Cut,
    Refused,
    encoded,
    http_answer,
)


class ClaudeServer(ClaudeApi):
    """The two APIs over HTTP."""

    async def open(self, port: int = 0) -> None:
        self._listening = await asyncio.start_server(
            self._connection, "127.0.0.1", port, limit=2**20, backlog=1024
        )
        self.address = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening, and cancel all calls in progress."""
        if self._listening:
            self._listening.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other until either side closes."""

        def left() -> bool:
            return reader.at_eof() or writer.is_closing()

        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                start, *fields = head.decode("latin-1").split("\r\n")
                headers = {}
                for line in filter(None, fields):
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                try:
                    answer = await self._route(start, headers, raw, left)
                except Refused as refused:
                    self.outcomes[refused.outcome] += 1
                    answer = http_answer(refused.status, encoded(refused.body), refused.header)
                writer.write(answer)
                await writer.drain()
        except Cut as cut:
            self.outcomes[cut.outcome] += 1
            writer.write(cut.sent)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client or the server closed; asyncio would log the latter
        finally:
            writer.close()

    async def _route(
        self, start: str, headers: Mapping[str, str], raw: bytes, left: Callable[[], bool]
    ) -> bytes:
        method, target, _ = start.split(" ")
        path, _, query = target.partition("?")
        # Versions of the SDK send the key in different headers.
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        key = headers.get("x-api-key") or bearer
        if not path.startswith("/control/") and key != self.config.api_key:
            raise Refused(401, "invalid x-api-key")
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            raise Refused(400, f"the body is not JSON: {error}") from error
        match [method, *path.strip("/").split("/")]:
            case ["POST", "v1", "messages"]:
                shown = await self._call(body, left)
            case ["POST", "v1", "messages", "batches"]:
                shown = self._create(body, len(raw))
            case ["GET", "v1", "messages", "batches"]:
                shown = self._list(dict(pair.split("=", 1) for pair in query.split("&") if pair))
            case ["GET", "v1", "messages", "batches", name] if batch := self._batches.get(name):
                shown = self._poll(batch)
            case ["POST", "v1", "messages", "batches", name, "cancel"] if (
                batch := self._batches.get(name)
            ):
                shown = self._cancel(batch)
            case ["GET", "v1", "messages", "batches", name, "results"] if (
                batch := self._batches.get(name)
            ):
                return self._results(batch)
            case ["GET", "control", "state"]:
                shown = self.state()
            case ["POST", "control", "config"]:
                try:
                    self.configure(**dict(body or {}))
                except (TypeError, ValueError) as error:
                    raise Refused(400, str(error)) from error
                shown = {}
            case _:
                raise Refused(404, f"{method} {path}: no such endpoint")
        return http_answer(200, encoded(shown))


@contextmanager
def serve(config: Config | None = None) -> Iterator[ClaudeServer]:
    """Run the server in a thread of this process."""
    server, loop = ClaudeServer(config or Config()), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.open(), loop).result()
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _alone(config: Config, port: int, state: Path | None) -> None:
    """Serve until SIGTERM or SIGINT, and write the state every second and at the end."""
    server, stop = ClaudeServer(config), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.open(port)
    print(server.address, flush=True)
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1)
        if state:
            part = state.with_name(f"{state.name}.part")
            part.write_bytes(encoded(server.state()))
            part.replace(state)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fake Claude server, for tests")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--config", type=json.loads, default={}, help="JSON, fields of Config")
    parser.add_argument("--state", type=Path, help="a file for the counters")
    args = parser.parse_args()
    asyncio.run(_alone(Config(**args.config), args.port, args.state))
