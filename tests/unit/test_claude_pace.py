"""Number of calls in progress at once, on a simulated clock."""

from __future__ import annotations

from random import Random

import pytest

from backdoor_assets.claude import waiting
from backdoor_assets.claude.errors import Wait
from backdoor_assets.claude.waiting import Pace

MOST = 64


def limits(shares: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the limit after each second. Calls take a second; `shares` are rejected per second."""
    now, chance, pace, found = 1000.0, Random(0), Pace(MOST), []
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now)
    for rejected in shares:
        for _ in range(int(pace.limit)):
            now += 1 / pace.limit
            if chance.random() < rejected:
                pace.crowded(Wait(None, crowded=True))
            else:
                pace.succeeded()
        found.append(pace.limit)
    return found


@pytest.mark.parametrize("rejected", [0.0, 0.1])
def test_rare_rejections_do_not_slow_the_other_calls(
    rejected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits([rejected] * 100, monkeypatch)[-1] > 0.8 * MOST


def test_many_rejections_lower_the_limit_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    found = limits([0.0] * 100 + [0.6] * 30 + [0.0] * 100, monkeypatch)
    assert found[99] == MOST
    assert found[129] < MOST / 8
    assert found[-1] == MOST


def test_nothing_is_sent_before_the_retry_after_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, pace = 1000.0, Pace(MOST)
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now)
    pace.crowded(Wait(7.0, crowded=True))
    now += 6.9
    assert not pace.free()
    now += 0.2
    assert pace.free()
