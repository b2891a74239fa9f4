"""How many calls are under way at once, on a clock of the test's own."""

from __future__ import annotations

from random import Random

import pytest

from backdoor_assets.claude import live
from backdoor_assets.claude.errors import Wait
from backdoor_assets.claude.live import Pace

MOST = 64


def limits(shares: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Calls at once after each second, when a call takes a second and this share of those of a
    second is turned away."""
    now, chance, pace, found = 1000.0, Random(0), Pace(MOST), []
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    for turned_away in shares:
        for _ in range(int(pace.limit)):
            now += 1 / pace.limit
            if chance.random() < turned_away:
                pace.crowded(Wait(None, crowded=True))
            else:
                pace.succeeded()
        found.append(pace.limit)
    return found


@pytest.mark.parametrize("turned_away", [0.0, 0.1])
def test_the_calls_that_the_api_turns_away_now_and_then_do_not_slow_the_others(
    turned_away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits([turned_away] * 100, monkeypatch)[-1] > 0.8 * MOST


def test_in_a_crowd_it_steps_back_and_comes_again_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = limits([0.0] * 100 + [0.6] * 30 + [0.0] * 100, monkeypatch)
    assert found[99] == MOST
    assert found[129] < MOST / 8
    assert found[-1] == MOST


def test_nothing_is_sent_before_the_time_that_the_api_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, pace = 1000.0, Pace(MOST)
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    pace.crowded(Wait(7.0, crowded=True))
    now += 6.9
    assert not pace.free()
    now += 0.2
    assert pace.free()
