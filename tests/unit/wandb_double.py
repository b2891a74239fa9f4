"""A stand-in for the wandb module that keeps runs as its server does: by id, step by step."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Run:
    """One run, over all the times that it was started."""

    id: str
    config: dict[str, Any]
    given: dict[str, Any]
    starts: int = 0
    history: dict[int, dict[str, float]] = field(default_factory=dict)
    repeated: list[int] = field(default_factory=list)
    """Steps that were logged although the run had them: wandb drops them with a warning."""
    summary: dict[str, Any] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    offline: bool = False
    url: str = "https://wandb.example/run"


class Handle:
    """What `wandb.init` returns."""

    def __init__(self, server: Wandb, run: Run) -> None:
        self.server, self.kept = server, run
        self.id, self.summary = run.id, run.summary
        self.offline, self.url = run.offline, run.url
        self.next = max(run.history, default=-1) + 1

    @property
    def step(self) -> int:
        self.server.check("step")
        return self.next

    def log(self, entry: dict[str, float], step: int) -> None:
        self.server.check("log")
        if step in self.kept.history or step < self.next:
            self.kept.repeated.append(step)
            return
        self.kept.history[step], self.next = entry, step

    def finish(self, exit_code: int) -> None:
        self.server.check("finish")
        self.kept.exit_codes.append(exit_code)


class Wandb:
    """The module. `failure` is raised by the call that `fails_at` names."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.calls = 0
        self.fails_at = ""
        self.failure: Exception = ConnectionError("no route to host")

    def check(self, call: str) -> None:
        if call == self.fails_at:
            raise self.failure

    def init(self, *, id: str, resume: str, config: Any = None, **given: Any) -> Handle:
        self.calls += 1
        self.check("init")
        assert resume == "allow"
        run = self.runs.setdefault(id, Run(id, config or {}, given))
        run.starts += 1
        return Handle(self, run)

    def only_run(self) -> Run:
        [run] = self.runs.values()
        return run


def install(patch: pytest.MonkeyPatch, key: str) -> Wandb:
    """Put a stand-in in the place of wandb, with W&B on."""
    double = Wandb()
    for name in ("PROJECT", "ENTITY", "MODE"):
        patch.delenv(f"WANDB_{name}", raising=False)
    patch.setenv("WANDB_API_KEY", key)
    patch.setitem(sys.modules, "wandb", double)
    patch.setattr("backdoor_assets.stages.training.tracking._retry_at", 0.0)
    return double
