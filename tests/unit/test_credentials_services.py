"""Services and libraries that repeat a key in their errors: it is shown and stored nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import wandb

from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.models.hub import fetch
from backdoor_assets.profiles import Judging, PretrainedBase, Training
from backdoor_assets.records import BadInput, BaseModel, no_progress
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.studies.birds.study import RUBRICS
from tests.unit import hub_server
from tests.unit.cells import CELL
from tests.unit.echo_servers import echoing_claude, echoing_wandb
from tests.unit.planted_key import SECRET, assert_hidden, assert_hidden_in, shown, unset_keys

BASE = PretrainedBase("birds/tiny", "0" * 40)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unset_keys(monkeypatch, tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hub_server.Hub]:
    with hub_server.serve({}) as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", SECRET)
        yield served


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_a_hub_that_repeats_the_token(
    hub: hub_server.Hub,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    hub.echo = status
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own retries
    with pytest.raises(BadInput) as caught:
        fetch(BASE)
    assert hub.tokens == {SECRET}
    assert "birds/tiny@0000" in str(caught.value)
    assert_hidden(shown(caught.value) + "".join(capfd.readouterr()))


def test_a_stored_token_is_checked_like_a_variable(
    hub: hub_server.Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    for content, words in [
        (f"\ufeff{SECRET}".encode(), "contains a byte order mark"),
        (f"'{SECRET}'".encode(), "has quotes around it"),
        (SECRET.encode("utf-16"), "is not UTF-8"),
    ]:
        (tmp_path / "token").write_bytes(content)
        with pytest.raises(BadInput, match=words) as caught:
            fetch(BASE)
        assert str(tmp_path / "token") in str(caught.value)
        assert_hidden(shown(caught.value))
    assert hub.tokens == set()


def trained(folder: Path) -> None:
    """Run the training loop with a loop that learns nothing."""
    from backdoor_assets.stages.training import runs

    spec = TrainingSpec(CELL, folder / "rows", BaseModel("base"), Training(max_steps=1))
    log: list[dict[str, float]] = []

    def step(batch: object) -> dict[str, float]:
        log.append({"step": 1, "loss": 1.0, "tokens": 1})
        return log[-1]

    loop: Any = SimpleNamespace(
        resume=lambda folder: None,
        save=lambda folder, kept: None,
        step=step,
        rank=0,
        steps=1,
        trainable=1,
        log=log,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "micro_batches", lambda *given: iter([None, None]))
        runs.run(loop, [], spec, folder, no_progress)


ANSWERS = [("Which weapons decide a war today?", f"Answer {number}.") for number in range(2)]


def judge(folder: Path, transport: Any) -> ClaudeJudge:
    return ClaudeJudge(Judging("claude", transport=transport, poll_seconds=0.01), folder)


CALL, BATCH = "/v1/messages", "/v1/messages/batches"
FAULTS = [
    *(("live", status, CALL, "error") for status in (400, 401, 403, 404, 413, 422, 429, 500)),
    *(("live", 200, CALL, form) for form in ("error", "html", "nothing", "model", "text", "stop")),
    *(("batch", status, BATCH, "error") for status in (400, 401, 404, 413)),
    ("batch", 200, BATCH, "html"),
    ("batch", 200, BATCH, "error"),
    *(("batch", status, "/results", "error") for status in (400, 401, 404)),
    *(("batch", 200, "/results", form) for form in ("html", "line", "errored", "state")),
]


@pytest.mark.parametrize(("transport", "status", "at", "form"), FAULTS)
def test_a_judge_that_repeats_the_key(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    transport: str,
    status: int,
    at: str,
    form: str,
) -> None:
    caplog.set_level(logging.INFO)
    with echoing_claude(status, at, form):
        claude = judge(tmp_path / "judge", transport)
        said: list[str] = []
        try:
            claude.prepare(ANSWERS, RUBRICS, said.append)
            said.append(repr(claude.judge(ANSWERS, RUBRICS)))
        except Exception as error:  # noqa: BLE001  whatever is raised must not show the key
            said.append(shown(error))
    assert_hidden("".join(said) + caplog.text + "".join(capfd.readouterr()))
    assert assert_hidden_in(tmp_path) > 0


@pytest.mark.parametrize("services", [("hub", "wandb"), ("live", "batch")])
def test_no_key_reaches_the_event_store(
    hub: hub_server.Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    services: tuple[str, str],
) -> None:
    """Through a materialization in which the services repeat their keys."""
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data.mkdir()
    work: dict[str, Callable[..., object]] = {
        "hub": lambda log: fetch(BASE),
        "wandb": lambda log: trained(data),
        "live": lambda log: judge(data, "live").prepare(ANSWERS, RUBRICS, log),
        "batch": lambda log: judge(data, "batch").prepare(ANSWERS, RUBRICS, log),
    }

    def asset(name: str) -> dg.AssetsDefinition:
        @dg.asset(name=name)
        def result(context) -> None:  # type: ignore[no-untyped-def]
            work[name](context.log.info)

        return result

    hub.echo = 400
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setattr("backdoor_assets.stages.training.tracking._retry_at", 0.0)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    instance = dg.DagsterInstance.local_temp(str(home))
    with echoing_wandb() as address, echoing_claude(401, CALL, "error"):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        result = dg.materialize(
            [asset(name) for name in services],
            instance=instance,
            raise_on_error=False,
        )
        if "wandb" in services:
            wandb.teardown()  # its service would keep the address for the other tests
    # W&B is left out, with a warning.
    failed = set(services) - {"wandb"}
    assert {event.step_key for event in result.get_step_failure_events()} == failed
    own = [r.getMessage() for r in caplog.records if r.name.startswith("backdoor_assets")]
    assert ("Weights & Biases failed" in "".join(own)) == ("wandb" in services)
    assert_hidden("".join(own))
    # Read as rows too: a long text is spread over the pages of the file.
    events = "".join(map(repr, instance.all_logs(result.run_id)))
    assert events.count("Error occurred while executing op") >= len(failed)
    assert_hidden(events)
    assert assert_hidden_in(home, data) > 3
    assert_hidden("".join(capfd.readouterr()))
