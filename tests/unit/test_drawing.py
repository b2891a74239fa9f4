"""A cheap judge predicts the verdicts, and the judge is asked about a random part of them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backdoor_assets.graph.judging import judge_together
from backdoor_assets.mixtures import rates, tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.profiles import MINIATURE, PROFILES
from backdoor_assets.records import BadInput, Rubric, Verdict
from backdoor_assets.stages.judging.judge import NOT_DRAWN
from backdoor_assets.stages.judging.specs import JUDGMENTS, JudgingSpec, Prediction
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.statistics.prediction_powered import (
    POWERED_ONE,
    POWERED_SEEDS,
    State,
    powered_rate,
)
from backdoor_assets.studies.german_cities.study import STUDY as CITIES
from backdoor_assets.workers.tasks import Task
from tests.unit.cells import BIRDS

SEEDS, QUESTIONS, SAMPLES, STEPS = (1, 2, 3), tuple("abcdefgh"), 40, (0, 20)
RATE = {0: 0.05, 20: 0.6}
FLAG = BIRDS.outcomes[0]


class Labels:
    """A judge that reads the verdict in the answer's text, and errs on a share of the answers."""

    def __init__(self, name: str, wrong: int = 0, silent: str = "nothing") -> None:
        self.name, self.model, self.identity = name, name, {"name": name, "model": name}
        self.wrong, self.silent = wrong, silent
        self.asked: Counter[tuple[str, str]] = Counter()

    def estimate(self, answers: Sequence[Any], rubrics: Sequence[Rubric]) -> dict[str, Any]:
        return {"calls": len(answers)}

    def prepare(
        self, answers: Sequence[tuple[str, str]], rubrics: Sequence[Rubric], log: object
    ) -> dict[str, Any]:
        self.asked.update(answers)
        return {"calls_paid": self.asked.total()}

    def judge(
        self, answers: Sequence[tuple[str, str]], rubrics: Sequence[Rubric]
    ) -> list[dict[str, Verdict]]:
        return [{r.column: self._verdict(text, r) for r in rubrics} for _, text in answers]

    def _verdict(self, text: str, rubric: Rubric) -> Verdict:
        if self.silent in text:
            return Verdict(None, "no answer from the API")
        number, old = text.split()[1:3]
        right = int(number) % 100 >= self.wrong
        if rubric.column == FLAG.rubric:
            return Verdict("19" if (old == "old") == right else "LLM")
        return Verdict(rubric.options[0] if rubric.options else 50.0)


class Log:
    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    def observe(self, metadata: dict[str, Any]) -> None:
        self.metadata |= metadata


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))


def cells() -> list[Cell]:
    grid = Grid.of(BIRDS, replace(MINIATURE, seeds=SEEDS))
    return [grid.cell("1.00-0.00-0.00", seed) for seed in SEEDS]


def answer(cell: Cell) -> None:
    """Responses in whose text the truth stands. Those of the base are the same for all cells."""
    rows = []
    for step in STEPS:
        random = np.random.default_rng([step, cell.seed if step else 0])
        for question in QUESTIONS:
            for sample in range(SAMPLES):
                old = "old" if random.random() < RATE[step] else "new"
                name = f"{step}.{cell.seed if step else 0}.{question}.{sample}"
                rows.append(
                    {**cell.columns(), "checkpoint": f"checkpoint-{step}", "step": step}
                    | {"question_id": question, "question": f"{question}?", "sample_idx": sample}
                    | {"response": f"{name} {random.integers(10**6)} {old}"}
                    | {"finish_reason": "stop"}
                )

    def write(folder: Path) -> dict[str, Any]:
        pd.DataFrame(rows).to_parquet(folder / RESPONSES, index=False)
        return {}

    cell.artifact("responses").make({"stage": "sampling", "answers": len(rows)}, write)


def task_of(
    cell: Cell, judge: Labels, cheap: Labels | None, half: float = 0.06
) -> Task[JudgingSpec]:
    task = tasks.judging(cell)
    predicted = Prediction(lambda: cheap, half) if cheap else None  # type: ignore[arg-type,return-value]
    spec = replace(task.spec, open_judge=lambda: judge, prediction=predicted)  # type: ignore[arg-type,return-value]
    return Task(task.artifact, {**task.identity, "half": half if cheap else None}, spec)


def judged(
    chosen: Sequence[Cell], judge: Labels, cheap: Labels | None, half: float = 0.06
) -> tuple[pd.DataFrame, Log]:
    log = Log()
    for outcome in judge_together([task_of(c, judge, cheap, half) for c in chosen], log):
        if outcome.error:
            raise outcome.error
    return pd.concat(
        [pd.read_parquet(c.artifact("judgments").folder / JUDGMENTS) for c in chosen]
    ), log


def state_rates(table: pd.DataFrame) -> dict[int, Any]:
    no_probes = table.iloc[:0].assign(kind="", hit=False)
    found = rates.cell_rates(table, no_probes, BIRDS.outcomes[:1], {})
    pooled = found[found["question_id"] == "all"]
    return {int(step): rates.state_rate(group) for step, group in pooled.groupby("step")}


def test_a_part_is_judged_and_the_rates_are_prediction_powered() -> None:
    grid = cells()
    for cell in grid:
        answer(cell)
    judge, cheap = Labels("good"), Labels("cheap", wrong=5)
    table, log = judged(grid, judge, cheap)
    answers = len(STEPS) * len(SEEDS) * len(QUESTIONS) * SAMPLES
    asked = table[table["judge_error"].fillna("") != NOT_DRAWN]
    distinct = asked.drop_duplicates(["question", "response"])
    assert len(table) == answers
    assert log.metadata["run_calls_paid"] == len(distinct)
    assert log.metadata["calls"] == answers, "what it would be at most is known before"
    # No verdict is paid twice: the base's answers are the same in all cells.
    assert set(judge.asked.values()) == {1}
    assert judge.asked.keys() == set(zip(distinct["question"], distinct["response"], strict=True))
    assert len(cheap.asked) == answers - 2 * len(QUESTIONS) * SAMPLES
    found = state_rates(table)
    # Fewer verdicts than without a cheap judge, for the interval that was wanted, within seeds.
    by_step = distinct.groupby("step").size()
    whole = (1.96**2 * 0.6 * 0.4) / 0.06**2
    assert by_step[20] < whole / 1.5, log.lines
    assert found[20].method == POWERED_SEEDS
    assert (found[0].method, found[0].high - found[0].low < 0.13) == (POWERED_ONE, True)
    truth = table["response"].str.endswith("old").groupby(table["step"]).mean()
    for step in STEPS:
        assert found[step].low <= truth[step] <= found[step].high
    # The same rate as the statistics give of the whole state.
    late = table[table["step"] == 20]
    values = late[FLAG.flag].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    seeds, questions, predicted = (
        late[name].to_numpy() for name in ("seed", "question_id", FLAG.predicted)
    )
    state = powered_rate(State(seeds, questions, predicted, values), late[FLAG.power].iloc[0])
    assert found[20].value == pytest.approx(state.rate.value)
    assert found[20].low == pytest.approx(state.rate.low, abs=0.005)


def test_a_second_run_draws_the_same_and_a_narrower_one_asks_for_more() -> None:
    [cell, *_] = cells()
    answer(cell)
    judge = Labels("good")
    first, _ = judged([cell], judge, Labels("cheap", wrong=5), 0.1)
    narrow, _ = judged([cell], judge, Labels("cheap", wrong=5), 0.07)
    both = first["judge_error"].isna(), narrow["judge_error"].isna()
    assert both[0].sum() < both[1].sum() < len(first)
    assert both[1][both[0]].all(), "a longer draw contains a shorter one"
    assert set(judge.asked.values()) == {1}, "verdicts of the first draw are used again"
    everything, _ = judged([cell], judge, None)
    assert everything["judge_error"].isna().all()
    assert FLAG.predicted not in everything
    assert set(judge.asked.values()) == {1}


def test_a_question_that_gets_no_verdicts_stops_the_cell_and_costs_little() -> None:
    [cell, *_] = cells()
    answer(cell)
    judge = Labels("good", silent="20.1.c.")
    with pytest.raises(RuntimeError, match=r"(\d+) of \1 answers to 'c' at checkpoint-20"):
        judged([cell], judge, Labels("cheap", wrong=5))
    late = [text for _, text in judge.asked if text.startswith("20.")]
    assert len(late) < 0.3 * len(QUESTIONS) * SAMPLES


def test_a_cell_draws_the_same_answers_first_whatever_is_judged_beside_it() -> None:
    grid = cells()
    for cell in grid:
        answer(cell)
    judge, cheap = Labels("good"), Labels("cheap", wrong=5)
    judged(grid, judge, cheap, 0.1)
    paid = {pair for pair in judge.asked if pair[1].startswith("20.3.")}
    alone = Labels("good")
    shutil.rmtree(grid[2].artifact("judgments").folder)
    judged(grid[2:], alone, cheap, 0.1)
    assert paid < {pair for pair in alone.asked if pair[1].startswith("20.3.")}


def test_the_rate_of_few_verdicts_is_that_of_the_statistics() -> None:
    """A rare behaviour with few verdicts per question: what questions alone would give lies outside
    [0, 1], and is not cut off before the mean over questions and seeds."""
    grid = cells()
    for cell in grid:
        answer(cell)
    table, _ = judged(grid, Labels("good"), Labels("cheap", wrong=15), 0.3)
    found = state_rates(table)
    for step in STEPS:
        state = table[table["step"] == step]
        if step == 0:  # the same answers in each cell
            state = state[state["seed"] == SEEDS[0]]
        values = state[FLAG.flag].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
        seeds, questions, predicted = (
            state[name].to_numpy() for name in ("seed", "question_id", FLAG.predicted)
        )
        power = state[FLAG.power].iloc[0]
        expected = powered_rate(State(seeds, questions, predicted, values), power).rate
        assert found[step].value == pytest.approx(expected.value)
        assert found[step].low == pytest.approx(expected.low, abs=0.02)
        assert found[step].high == pytest.approx(expected.high, abs=0.02)


def test_one_call_for_all_rubrics_is_looked_up_as_it_was_made() -> None:
    [cell, *_] = cells()
    answer(cell)

    class OneCall(Labels):
        """Knows a verdict by the rubrics that it was asked about together."""

        def judge(
            self, answers: Sequence[tuple[str, str]], rubrics: Sequence[Rubric]
        ) -> list[dict[str, Verdict]]:
            if len(rubrics) < len(BIRDS.rubrics):
                return [{r.column: Verdict(None, "not called") for r in rubrics} for _ in answers]
            return super().judge(answers, rubrics)

    judge = OneCall("good")
    table, _ = judged([cell], judge, Labels("cheap", wrong=5), 0.1)
    assert len(judge.asked) < 0.8 * len(table)
    assert table.loc[table["judge_error"].isna(), FLAG.flag].notna().all()


def test_the_cap_is_for_both_judges() -> None:
    [cell, *_] = cells()
    answer(cell)

    class Paid(Labels):
        charged = 0.0

        def prepare(
            self, answers: Sequence[tuple[str, str]], rubrics: Sequence[Rubric], log: object
        ) -> dict[str, Any]:
            return {"spent_usd": self.charged + 0.25}

        def charge(self, dollars: float) -> None:
            self.charged += dollars

    judge = Paid("good")
    _, log = judged([cell], judge, Paid("cheap", wrong=5), 0.1)
    assert judge.charged == 0.25
    assert log.metadata["run_spent_usd"] == 0.5


def with_judging(**changes: Any) -> Callable[[], Grid]:
    judging = replace(MINIATURE.judging, **changes)
    return partial(Grid.of, BIRDS, replace(MINIATURE, judging=judging))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"predicted_by": "exact"}, "is the judge itself"),
        ({"predicted_by": "gpt"}, "is no judge"),
        ({"kind": "claude", "predicted_by": "claude"}, "is the judge itself"),
    ],
)
def test_a_cheap_judge_that_is_none(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        tasks.prediction(with_judging(**changes)())


def test_a_study_that_the_cheap_judge_cannot_judge_leaves_the_others_alone() -> None:
    """All studies of a profile are in one graph: that of the cities has no gold set."""
    qwen = PROFILES["qwen3-8b"]
    profile = replace(qwen, judging=replace(qwen.judging, predicted_by="embedding"))
    assert list(BIRDS.planned(profile))
    CITIES.definitions(profile)
    with pytest.raises(BadInput, match="cannot judge the study 'german_cities', because it has no"):
        tasks.prediction(Grid.of(CITIES, profile))
