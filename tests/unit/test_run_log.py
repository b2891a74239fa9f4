"""What a run says of itself is less important than what it makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backdoor_assets.graph.materializing import RunLog


def context(info: Any, log_event: Any) -> Any:
    log = SimpleNamespace(info=info)
    return SimpleNamespace(log=log, log_event=log_event, asset_key="birds/adapters")


def unreachable(*_: Any, **__: Any) -> None:
    raise ConnectionError("too many retries for DB connection")


def interrupted(_: str) -> None:
    raise KeyboardInterrupt


def test_a_line_that_cannot_be_recorded_is_lost_and_nothing_else() -> None:
    log = RunLog(context(unreachable, unreachable))
    log("training: 1 of 2 done")
    with pytest.raises(ConnectionError):
        log.observe({"estimated_usd": 1.0})
    with pytest.raises(KeyboardInterrupt):
        RunLog(context(interrupted, unreachable))("training: 1 of 2 done")
