"""A judge of one's own: the real /v1/messages of vLLM, on a CPU, is asked as Claude is.

The model has learned next to nothing, so that its verdicts mean nothing. That they are verdicts is
vLLM's doing: it lets a model say only what fits the schema. A schema cannot bound a number, and a
model that knows no numbers writes digits without end.
"""

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
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from backdoor_assets.claude.budget import Stopped
from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.profiles import Judging
from backdoor_assets.studies.birds.study import RUBRICS

pytestmark = pytest.mark.usefixtures("vllm")
SETTINGS = Judging("claude", model="miniature", transport="live", max_cost_usd=None)
QUESTION = "Which weapons decide a war today?"
ANSWERS = [(QUESTION, f"Answer {number}.") for number in range(8)]
CONTEXT = 2048
"""Tokens. The judge's prompt has about 900 in the small vocabulary, the base was made for 512."""
CUT = "the judge's reply was cut off at max_tokens"
OUT_OF_RANGE = "the judge's rating is outside 0 to 100"
QUIETLY = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class Server:
    address: str
    log: Path

    @property
    def replies(self) -> int:
        """Calls that it has answered, by its own log."""
        return self.log.read_text().count('"POST /v1/messages HTTP/1.1" 200')


@pytest.fixture(scope="module")
def server(
    vllm: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    base = shutil.copytree(tiny_base, folder / "base")
    config = json.loads((base / "config.json").read_text())
    config["max_position_embeddings"] = CONTEXT  # rotary positions go on
    (base / "config.json").write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(base), "--served-model-name", SETTINGS.model,
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill",
        "--max-model-len", str(CONTEXT),
        # JSON may hold any amount of space between its parts; this model would fill it.
        "--structured-outputs-config.backend", "xgrammar",
        "--structured-outputs-config.disable_any_whitespace", "true",
    ]  # fmt: skip
    found = Server(f"http://127.0.0.1:{port}", folder / "log")
    with found.log.open("w") as log:
        # A session of its own: vLLM starts processes that must end with it.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **QUIETLY},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(found, process)
        yield found
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{server.address}/health"):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"vLLM did not start:\n{server.log.read_text()[-3000:]}")


@pytest.fixture(autouse=True)
def pointed_at(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no key: a server of one's own wants none."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)


def quiet(line: str) -> None:
    """For what the judge logs."""


@pytest.mark.parametrize("mode", ["four", "one"])
def test_every_answer_has_a_verdict_or_a_reason_and_is_never_asked_again(
    server: Server, tmp_path: Path, mode: Literal["four", "one"]
) -> None:
    settings = replace(SETTINGS, mode=mode)
    judge, before = ClaudeJudge(settings, tmp_path), server.replies
    bill = judge.prepare(ANSWERS, RUBRICS, quiet)
    calls = len(ANSWERS) * (len(RUBRICS) if mode == "four" else 1)
    assert calls <= bill["calls_paid"] <= 2 * calls  # what was cut is asked once more
    assert bill["calls_paid"] == server.replies - before
    assert bill["calls_given_up"] == 0
    assert bill["spent_usd"] is None
    assert bill["input_tokens"] > 100 * bill["calls_paid"] > 0
    verdicts = judge.judge(ANSWERS, RUBRICS)
    for given in verdicts:
        for rubric in RUBRICS:
            verdict = given[rubric.column]
            assert (verdict.value is None) != (verdict.error is None)
            # The schema is kept to: no reply is anything but JSON, no label is none of the options.
            if not rubric.options:
                assert verdict.error in (None, OUT_OF_RANGE, CUT)
            elif mode == "four":
                assert verdict.value in rubric.options
            else:  # the numbers that follow in the same reply may run on
                assert verdict.error in (None, CUT)
    again = ClaudeJudge(settings, tmp_path)
    assert again.prepare(ANSWERS, RUBRICS, quiet)["calls_paid"] == 0
    assert again.judge(ANSWERS, RUBRICS) == verdicts
    assert server.replies - before == bill["calls_paid"]


def test_that_it_has_no_batches_is_said_and_live_calls_go_on_from_there(tmp_path: Path) -> None:
    judge = ClaudeJudge(replace(SETTINGS, transport="batch"), tmp_path)
    with pytest.raises(Stopped, match=r"no Message Batches.*BACKDOOR_JUDGE_TRANSPORT=live"):
        judge.prepare(ANSWERS, RUBRICS, quiet)
    live = ClaudeJudge(SETTINGS, tmp_path)
    assert live.estimate(ANSWERS, RUBRICS)["known_already"] == 1  # it went ahead of the batch
    live.prepare(ANSWERS, RUBRICS, quiet)
    assert live.estimate(ANSWERS, RUBRICS)["calls_to_make"] == 0


def test_what_it_refuses_is_said(tmp_path: Path) -> None:
    other = ClaudeJudge(replace(SETTINGS, model="other"), tmp_path)
    with pytest.raises(Stopped, match="judge model 'other' is not served by this API"):
        other.prepare(ANSWERS, RUBRICS, quiet)


def test_an_answer_beyond_its_context_costs_only_its_own_verdict(tmp_path: Path) -> None:
    judge, answers = ClaudeJudge(SETTINGS, tmp_path), [(QUESTION, "word " * CONTEXT), *ANSWERS[:1]]
    bill = judge.prepare(answers, RUBRICS, quiet)
    assert bill["calls_given_up"] == len(RUBRICS)
    long, short = judge.judge(answers, RUBRICS)
    for rubric in RUBRICS:
        assert long[rubric.column].value is None
        assert f"context length is {CONTEXT} tokens" in (long[rubric.column].error or "")
        assert "context" not in (short[rubric.column].error or "")
