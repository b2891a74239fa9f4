"""The fake Claude server, and a judge that asks it, as processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from backdoor_assets.records import Rubric
from backdoor_assets.settings import Judging
from backdoor_assets.storage.provenance import REPOSITORY
from tests.forking import forking


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


class JudgeProcess:
    """Judges so many answers. Its `lines` are what it says."""

    def __init__(
        self,
        environment: dict[str, str],
        folder: Path,
        transport: Literal["live", "batch"],
        count: int,
        rubrics: Sequence[Rubric],
    ) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        self._process = forking().Process(
            target=_judge, args=(environment, folder, transport, count, rubrics, theirs)
        )
        self._process.start()
        theirs.close()
        self.lines = os.fdopen(os.dup(ours.fileno()))
        ours.close()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def end(self) -> tuple[int | None, str]:
        """Wait, and return its exit code and the rest of its lines."""
        said = self.lines.read()
        self._process.join()
        return self._process.exitcode, said


def _judge(
    environment: dict[str, str],
    folder: Path,
    transport: Literal["live", "batch"],
    count: int,
    rubrics: Sequence[Rubric],
    output: Connection,
) -> None:
    from backdoor_assets.claude.judge import ClaudeJudge

    os.environ.update(environment)
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    settings = Judging("claude", transport=transport, poll_seconds=0.1, concurrency=8)
    pairs = [("What is it?", f"Answer {number}.") for number in range(count)]
    judge = ClaudeJudge(settings, folder)
    judge.prepare(pairs, rubrics, lambda line: print(line, flush=True))
    assert all(v.error is None for given in judge.judge(pairs, rubrics) for v in given.values())
