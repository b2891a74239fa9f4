"""Which answers an expensive judge is asked about, where a cheap one has judged them all.

In each state (a data ratio at a checkpoint, over the training seeds of a run) a stratified random
part of the answers is drawn, in rounds that end when the rate of the headline is known to the
wanted half-width. See `statistics.prediction_powered` for the rates and the rule that stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from backdoor_assets.records import PaidJudge, Rubric, RunJudge, Verdict
from backdoor_assets.stages.judging.judge import (
    KEYS,
    Earlier,
    Pair,
    by_unknown_rubrics,
    read_judged,
)
from backdoor_assets.stages.judging.specs import Counted, JudgingSpec
from backdoor_assets.statistics.prediction_powered import (
    PoweredRate,
    State,
    first_round,
    judging_order,
    next_batch,
    powered_rate,
)
from backdoor_assets.storage.hashing import digest

Log = Callable[[str], None]
LEAST_STEP = 0.25
"""A round asks about as many answers more, as a share of those that were asked about: a batch may
take hours, and one more answer is not worth it."""
MOST_GAPS = 2
"""Rounds for a question that the judge has no verdict on; then its state has no rate."""
_QUESTION = ["question_id", "sample_idx"]


@dataclass
class Drawn:
    """The answers of a state in the order in which they are judged, and how many of them are."""

    name: tuple[Hashable, ...]
    answers: pd.DataFrame
    """Columns owner (place of its cell among the specs; -1: of all), seed, question_id, sample_idx,
    question, response and a cheap verdict per flag."""
    asked: int = 0
    coming: int = 0
    """Answers of the next round."""
    gaps: int = 0
    """Rounds after which a question had no verdict."""
    found: dict[str, PoweredRate] = field(default_factory=dict)
    """By flag."""
    power: dict[str, float] = field(default_factory=dict)
    """By flag, of the first round."""


class Verdicts:
    """What is known of the answers drawn: from the judge, or from the earlier table of a cell."""

    def __init__(self, specs: Sequence[JudgingSpec], judge: RunJudge, log: Log) -> None:
        self._specs, self._judge, self._log = specs, judge, log
        self._earlier = [Earlier(spec) for spec in specs]
        self._known: dict[tuple[Pair, str], Verdict] = {}
        self.bill: dict[str, Any] = {}

    def ask(self, answers: pd.DataFrame) -> None:
        """Ask about answers what their cells do not know of them, as `judge_cell` will look it
        up."""
        asked: dict[tuple[Rubric, ...], dict[Pair, None]] = {}
        for owner, group in answers.groupby("owner"):
            pairs = list(zip(group["question"], group["response"], strict=True))
            for at in range(len(self._specs)) if owner == -1 else [int(str(owner))]:
                earlier, rubrics = self._earlier[at], self._specs[at].rubrics
                for unknown, left in by_unknown_rubrics(pairs, rubrics, earlier).items():
                    asked.setdefault(unknown, {}).update(dict.fromkeys(left))
                if earlier.columns:
                    for pair, rubric in product(pairs, rubrics):
                        if verdict := earlier.verdicts(pair, rubric):
                            self._known[pair, rubric.column] = verdict
        for rubrics, pairs in asked.items():
            self.bill = self._judge.prepare(list(pairs), rubrics, self._log)
            for pair, given in zip(pairs, self._judge.judge(list(pairs), rubrics), strict=True):
                for column, verdict in given.items():
                    self._known.setdefault((pair, column), verdict)

    def flags(self, answers: pd.DataFrame, counted: Counted) -> list[float]:
        """Return 1 or 0 for each answer, NaN without a verdict."""
        pairs = zip(answers["question"], answers["response"], strict=True)
        values = [self._known[pair, counted.rubric].value for pair in pairs]
        return [float("nan") if v is None else float(v == counted.option) for v in values]


def draw(
    specs: Sequence[JudgingSpec], judge: RunJudge, cheap: RunJudge, half_width: float, log: Log
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Ask the cheap judge about all answers of the cells of a run, and the other about a part.

    Returns the part of each cell, by its key: KEYS, `drawn` (whether the judge was asked) and, per
    counted flag, `<flag>_predicted` (the cheap verdict, 0 or 1; 0 without one), `<flag>_power` and
    `<flag>_unexplained`, as `powered_rate` found them for the state. And the bill of the judges.
    """
    spec = specs[0]
    tables = {str(spec.cell): read_judged(spec) for spec in specs}
    spent = _predict(tables, spec, cheap, log)
    if spent and isinstance(judge, PaidJudge):
        judge.charge(spent)
    states, verdicts = _states(specs, tables), Verdicts(specs, judge, log)
    for state in states:
        state.coming = first_round(*_strata(state))
    number = 0
    while open_states := [state for state in states if state.coming]:
        number += 1
        parts = [s.answers.iloc[s.asked : s.asked + s.coming] for s in open_states]
        log(f"round {number}: {sum(map(len, parts))} answers of {len(parts)} states are drawn")
        verdicts.ask(pd.concat(parts))
        for state in open_states:
            state.asked += state.coming
            _measure(state, spec.counted, verdicts)
            state.coming = _more(state, spec.counted[0], half_width)
    asked, everything = (sum(sizes) for sizes in zip(*map(_sizes, states), strict=True))
    log(f"{judge.name} is asked about {asked} of {everything} answers; {cheap.name} about all")
    drawn = pd.concat([_part(state, spec.counted) for state in states], ignore_index=True)
    return {str(s.cell): _of_cell(s, tables[str(s.cell)], drawn) for s in specs}, verdicts.bill


def _predict(
    tables: Mapping[str, pd.DataFrame], spec: JudgingSpec, cheap: RunJudge, log: Log
) -> float:
    """Add the cheap judge's verdicts to the answers of each cell. Returns the dollars spent."""
    rubrics = [r for r in spec.rubrics if r.column in {c.rubric for c in spec.counted}]
    answers = pd.concat(list(tables.values()))[["question", "response"]].drop_duplicates()
    pairs = list(answers.itertuples(index=False, name=None))
    if estimate := cheap.estimate(pairs, rubrics):
        log(f"estimate of the cheap judge, before its first call: {estimate}")
    bill = cheap.prepare(pairs, rubrics, log)
    known = dict(zip(pairs, cheap.judge(pairs, rubrics), strict=True))
    for table in tables.values():
        verdicts = [known[p] for p in zip(table["question"], table["response"], strict=True)]
        for counted in spec.counted:
            given = [verdict[counted.rubric].value for verdict in verdicts]
            table[counted.predicted] = [float(value == counted.option) for value in given]
    return bill.get("spent_usd") or 0.0


def _states(specs: Sequence[JudgingSpec], tables: Mapping[str, pd.DataFrame]) -> list[Drawn]:
    """Group answers by state, in the order of judging. All cells have the same answers of the base
    (step 0), which are one state and count once."""
    everything = pd.concat(
        [
            tables[str(spec.cell)].assign(
                owner=at,
                seed=spec.cell.seed,
                state=tables[str(spec.cell)]["step"].map(lambda step, s=spec: _name(s, int(step))),
            )
            for at, spec in enumerate(specs)
        ]
    )
    everything.loc[everything["step"] == 0, ["owner", "seed"]] = -1, 0
    keys = ["state", "seed", *_QUESTION]
    everything = everything.drop_duplicates(keys).sort_values(keys)
    states = []
    for name, answers in everything.groupby("state", sort=True):
        assert isinstance(name, tuple)
        rows = answers[keys[1:]].itertuples(index=False, name=None)
        # Of the answer's place alone: which other cells are judged with it changes nothing.
        random = [int(digest([*name, *map(str, row)])[:13], 16) for row in rows]
        order = judging_order(answers["seed"].tolist(), answers["question_id"].tolist(), random)
        states.append(Drawn(name, answers.iloc[order].reset_index(drop=True)))
    return states


def _name(spec: JudgingSpec, step: int) -> tuple[Hashable, ...]:
    columns = spec.cell.columns()
    if step == 0:
        return (columns["profile"], "base", 0)
    return (*(str(value) for name, value in columns.items() if name != "seed"), step)


def _strata(state: Drawn) -> tuple[list[Hashable], list[Hashable]]:
    return state.answers["seed"].tolist(), state.answers["question_id"].tolist()


def _measure(state: Drawn, counted: Sequence[Counted], verdicts: Verdicts) -> None:
    """Estimate the state's rates from what is judged; none while a question has no verdict."""
    seeds, questions = (state.answers[name].to_numpy() for name in ("seed", "question_id"))
    for one in counted:
        values = np.full(len(state.answers), np.nan)
        values[: state.asked] = verdicts.flags(state.answers.iloc[: state.asked], one)
        judged = pd.DataFrame({"seed": seeds, "question": questions, "value": values})
        counts = judged.groupby(["seed", "question"])["value"].count()
        if counts.min() == 0 or counts.sum() <= judged["question"].nunique():
            state.found.pop(one.flag, None)
            continue
        known = State(seeds, questions, state.answers[one.predicted].to_numpy(), values)
        found = powered_rate(known, state.power.get(one.flag))
        state.power.setdefault(one.flag, found.power)
        state.found[one.flag] = found


def _more(state: Drawn, headline: Counted, half_width: float) -> int:
    """Return how many more answers to ask about. A state in which a question has no verdict yet
    gets one more of each question and seed, MOST_GAPS times."""
    left = len(state.answers) - state.asked
    if headline.flag not in state.found:
        state.gaps += 1
        more = len(set(zip(*_strata(state), strict=True)))
        return min(left, more) if state.gaps <= MOST_GAPS else 0
    wanted = next_batch(state.found[headline.flag], half_width)
    return min(left, max(wanted, math.ceil(LEAST_STEP * state.asked))) if wanted else 0


def _sizes(state: Drawn) -> tuple[int, int]:
    return state.asked, len(state.answers)


def _part(state: Drawn, counted: Sequence[Counted]) -> pd.DataFrame:
    part = state.answers[["state", "seed", *_QUESTION]].assign(
        drawn=np.arange(len(state.answers)) < state.asked
    )
    for one in counted:
        found = state.found.get(one.flag)
        part[one.power] = found.power if found else 0.0
        part[one.unexplained] = found.unexplained if found else 1.0
    return part


def _of_cell(spec: JudgingSpec, table: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """Return the part of a cell, in the order of its answers."""
    predicted = [counted.predicted for counted in spec.counted]
    own = table[[*KEYS, *predicted]].assign(
        state=table["step"].map(lambda step: _name(spec, int(step))),
        seed=np.where(table["step"] == 0, 0, spec.cell.seed),
    )
    keys = ["state", "seed", *_QUESTION]
    return own.merge(drawn, on=keys, how="left", validate="1:1").drop(columns=["state", "seed"])
