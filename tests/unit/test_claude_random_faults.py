"""Random sequences of a hostile server's faults, and kills: no wrong verdict, no dollar over the
cap, nothing paid twice without need, no traceback."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backdoor_assets.claude.budget import Stopped
from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.claude.store import Store
from backdoor_assets.profiles import Judging
from backdoor_assets.studies.birds.study import RUBRICS
from tests.hostile_claude import (
    BATCH,
    FILTERED,
    LIVE,
    ODD,
    OF_BATCHES,
    PAIRS,
    Hostile,
    Verdicts,
    assert_right,
    hostile,
    hurry,
    judged,
    true_verdicts,
)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of the calls that a kill ends


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    return true_verdicts(tmp_path_factory.mktemp("truth"))


SEQUENCES = 240


def sequence(number: int) -> tuple[dict[str, float], dict[str, float], Judging, float]:
    """Draw faults of the hostile kind and of the usual kind, a transport and a cap."""
    chance = Random(number)
    settings = chance.choice((LIVE, BATCH))
    kinds = [*ODD, FILTERED, *(OF_BATCHES if settings is BATCH else ())]
    plan = {name: chance.uniform(0.05, 0.6) for name in chance.sample(kinds, chance.randint(1, 3))}
    usual = ["overloaded", "error", "cut", "cut_early", "malformed", "wrong_option", "refusal",
             "max_tokens", "create_cut", "list_error", "results_cut", "poll_error", "expired",
             "errored_api"]  # fmt: skip
    faults = {name: chance.uniform(0.02, 0.15) for name in chance.sample(usual, 3)}
    return plan, faults, settings, chance.choice((0.7, 1.5, 4.0, 15.0, 60.0))


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


@pytest.mark.parametrize("number", range(SEQUENCES))
def test_random_faults(
    tmp_path: Path, truth: Verdicts, server: Hostile, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
    monkeypatch.setenv("ANTHROPIC_API_KEY", server.config.api_key)
    plan, faults, settings, factor = sequence(number)
    server.begin(plan, number)
    server.configure(faults=faults, seed=number)
    server.outcomes.clear()
    server.billed.clear()
    before = server.dollars()
    said: list[str] = []
    judge = ClaudeJudge(settings, tmp_path)
    cap = factor * judge.estimate(PAIRS, RUBRICS)["estimated_usd"]
    settings = replace(settings, max_cost_usd=cap)
    judge, kill_at, in_flight = ClaudeJudge(settings, tmp_path), Random(number).randint(1, 30), 0
    take = judge._take

    def killed(*given: Any, **named: Any) -> bool:
        nonlocal kill_at, in_flight
        kill_at -= 1
        if kill_at == 0:
            in_flight = settings.concurrency
            raise KeyboardInterrupt
        return take(*given, **named)

    monkeypatch.setattr(judge, "_take", killed)
    try:
        judge.prepare(PAIRS, RUBRICS, said.append)
        assert_right(judge.judge(PAIRS, RUBRICS), truth)
    except Stopped as stop:
        said.append(str(stop))
    except KeyboardInterrupt:
        pass
    time.sleep(0.02 * bool(in_flight))
    assert server.dollars() - before <= cap
    # Calls are billed twice only where a reply was lost, was none, or held no verdict.
    odd = sum(server.committed[fault] for fault in ODD)
    lost = server.outcomes["cut"]
    lost += sum(server.committed[f] for f in ("malformed", "wrong_option", "max_tokens"))
    server.begin({}, 0)
    server.configure(faults={})
    found, _ = judged(tmp_path, replace(settings, max_cost_usd=None), said.append)
    reasons = [v.error for given in found for v in given.values() if v.value is None]
    assert assert_right(found, truth) == len(reasons)
    assert all("the judge" in str(reason) for reason in reasons)  # its reply held no verdict
    twice = sum(times - 1 for times in server.billed.values())
    assert twice <= odd + lost + in_flight
    assert "Traceback" not in "\n".join(said)
    assert Store(tmp_path).open_batches() == []
