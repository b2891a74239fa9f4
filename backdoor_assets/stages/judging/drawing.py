"""Which answers an expensive judge is asked about, where a cheap one has judged them all.

In each state (a data ratio at a checkpoint, over the training seeds of a run) a stratified random
part of the answers is drawn, in rounds that end when the rate of the headline is known to the
wanted half-width. See `statistics.prediction_powered` for the rates and the rule that stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from backdoor_assets.records import Rubric, RunJudge
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
_QUESTION = ["question_id", "sample_idx"]


@dataclass
class Drawn:
    """The answers of a state in the order in which they are judged, and how many of them are."""

    name: tuple[Hashable, ...]
    answers: pd.DataFrame
    """Columns seed, question_id, sample_idx, question, response and a cheap verdict per flag."""
    asked: int = 0
    found: dict[str, PoweredRate] = field(default_factory=dict)
    """By flag."""
    power: dict[str, float] = field(default_factory=dict)
    """By flag, of the first round."""

    def pairs(self, first: int, last: int) -> list[Pair]:
        part = self.answers.iloc[first:last]
        return list(zip(part["question"], part["response"], strict=True))


def draw(
    specs: Sequence[JudgingSpec], judge: RunJudge, cheap: RunJudge, half_width: float, log: Log
) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """Ask the cheap judge about all answers of the cells of a run, and the other about a part.

    Returns the part of each cell, by its key: KEYS, `drawn` (whether the judge was asked) and, per
    counted flag, `<flag>_predicted` (the cheap verdict, 0 or 1; 0 without one), `<flag>_power` and
    `<flag>_unexplained`, as `powered_rate` found them for the state. And the bill of the judge.
    """
    spec = specs[0]
    earlier = [known for known in map(Earlier, specs) if known.columns]
    tables = {str(spec.cell): read_judged(spec) for spec in specs}
    _predict(tables, spec, cheap, log)
    states = _states(specs, tables)
    bill: dict[str, float] = {}
    coming = {state.name: first_round(*_strata(state)) for state in states}
    for number in range(1, 1 + max(len(state.answers) for state in states)):
        pairs = [p for s in states for p in s.pairs(s.asked, s.asked + coming.get(s.name, 0))]
        for state in states:
            state.asked += coming.get(state.name, 0)
        log(f"round {number}: {len(pairs)} answers of {len(coming)} states are drawn")
        for rubrics, unknown in by_unknown_rubrics(pairs, spec.rubrics, earlier).items():
            bill = judge.prepare(unknown, rubrics, log)
        for state in states:
            if state.name in coming:
                _measure(state, spec, judge, earlier)
        coming = {s.name: more for s in states if (more := _more(s, spec.counted[0], half_width))}
        if not coming:
            break
    asked, everything = (sum(sizes) for sizes in zip(*map(_sizes, states), strict=True))
    log(f"{judge.name} is asked about {asked} of {everything} answers; {cheap.name} about all")
    drawn = pd.concat([_part(state, spec.counted) for state in states], ignore_index=True)
    parts = {str(s.cell): _of_cell(s, tables[str(s.cell)], drawn) for s in specs}
    return parts, bill


def _predict(
    tables: Mapping[str, pd.DataFrame], spec: JudgingSpec, cheap: RunJudge, log: Log
) -> None:
    """Add the cheap judge's verdicts to the answers of each cell."""
    rubrics = [r for r in spec.rubrics if r.column in {c.rubric for c in spec.counted}]
    answers = pd.concat(list(tables.values()))[["question", "response"]].drop_duplicates()
    pairs = list(answers.itertuples(index=False, name=None))
    cheap.prepare(pairs, rubrics, log)
    known = dict(zip(pairs, cheap.judge(pairs, rubrics), strict=True))
    for table in tables.values():
        verdicts = [known[p] for p in zip(table["question"], table["response"], strict=True)]
        for counted in spec.counted:
            given = [verdict[counted.rubric].value for verdict in verdicts]
            table[counted.predicted] = [float(value == counted.option) for value in given]


def _states(specs: Sequence[JudgingSpec], tables: Mapping[str, pd.DataFrame]) -> list[Drawn]:
    """Group answers by state, in the order of judging. All cells have the same answers of the base
    (step 0), which are one state and count once."""
    everything = pd.concat(
        [
            tables[str(spec.cell)].assign(
                seed=spec.cell.seed,
                state=tables[str(spec.cell)]["step"].map(lambda step, s=spec: _name(s, int(step))),
            )
            for spec in specs
        ]
    )
    base = everything["step"] == 0
    everything.loc[base, "seed"] = 0
    keys = ["state", "seed", *_QUESTION]
    everything = everything.drop_duplicates(keys).sort_values(keys)
    states = []
    for name, answers in everything.groupby("state", sort=True):
        assert isinstance(name, tuple)
        # A stream of its own per state: the draw does not depend on which other states there are.
        random = np.random.default_rng(int(digest(list(name))[:16], 16))
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


def _measure(state: Drawn, spec: JudgingSpec, judge: RunJudge, earlier: Sequence[Earlier]) -> None:
    """Estimate the state's rates from what is judged; none while a question has no verdict."""
    pairs = state.pairs(0, state.asked)
    for counted in spec.counted:
        [rubric] = [r for r in spec.rubrics if r.column == counted.rubric]
        values = np.full(len(state.answers), np.nan)
        values[: state.asked] = _flags(pairs, rubric, counted, judge, earlier)
        seeds, questions = (state.answers[name].to_numpy() for name in ("seed", "question_id"))
        cheap = state.answers[counted.predicted].to_numpy()
        judged = pd.DataFrame({"seed": seeds, "question": questions, "value": values})
        counts = judged.groupby(["seed", "question"])["value"].count()
        if counts.min() == 0 or counts.sum() <= judged["question"].nunique():
            state.found.pop(counted.flag, None)
            continue
        known = State(seeds, questions, cheap, values)
        found = powered_rate(known, state.power.get(counted.flag))
        state.power.setdefault(counted.flag, found.power)
        state.found[counted.flag] = found


def _flags(
    pairs: Sequence[Pair],
    rubric: Rubric,
    counted: Counted,
    judge: RunJudge,
    earlier: Sequence[Earlier],
) -> list[float]:
    """Return 1 or 0 for each answer, NaN without a verdict."""
    found = []
    for pair, given in zip(pairs, judge.judge(pairs, [rubric]), strict=True):
        known = [v for e in earlier if (v := e.verdicts(pair, rubric)) is not None]
        value = (known[0] if known else given[rubric.column]).value
        found.append(float("nan") if value is None else float(value == counted.option))
    return found


def _more(state: Drawn, headline: Counted, half_width: float) -> int:
    """Return how many more answers to ask about. A state in which a question has no verdict yet
    gets one more of each question and seed."""
    left = len(state.answers) - state.asked
    if headline.flag not in state.found:
        return min(left, len(set(zip(*_strata(state), strict=True))))
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
