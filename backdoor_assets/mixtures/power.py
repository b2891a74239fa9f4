"""The precision to expect of a mixture study, in words: intervals, and a better use of answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from textwrap import wrap

import pandas as pd

from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.records import BadInput, Ratio
from backdoor_assets.reporting.text import Line, columns
from backdoor_assets.statistics.power import (
    TOLERANCE,
    Allocation,
    Budget,
    Components,
    Size,
    allocations,
    components,
    detectable,
    half_width,
    other_questions,
)
from backdoor_assets.storage.tables import read_table

SEEDS = 5, 10, 20
SAMPLES = 5, 10, 20, 50, 100
LEAST_SEEDS = 3
WIDTH = 92

ASSUMED_RATE, ASSUMED_SEEDS, ASSUMED_QUESTIONS = 0.5, 0.18, 0.28
"""A rate, and standard deviations between training seeds and between questions. Source: the
published bird experiment (arXiv 2512.09742) on GPT-4.1, ten questions with a mean of .63 and an SD
of .28; its replications, 14, 52 and 96 % over three training seeds, and 40 to 92 % over 23 of
GPT-4.1-mini (an SD of about .13, from the range): pooled by degrees of freedom, .18."""
ASSUMED = Components(
    rate=ASSUMED_RATE,
    seeds=ASSUMED_SEEDS**2,
    questions=ASSUMED_QUESTIONS**2,
    # The mean of p (1 - p) over rates p that vary around the mean rate.
    within=ASSUMED_RATE * (1 - ASSUMED_RATE) - ASSUMED_SEEDS**2 - ASSUMED_QUESTIONS**2,
)


@dataclass(frozen=True)
class Plan:
    """What a grid comes to as it stands."""

    grid: Grid
    questions: int
    """Open questions: those whose answers are judged."""
    checkpoints: Sequence[int]
    """Of a cell, per ratio."""
    tokens: float
    """Of one answer."""
    dollars: float | None
    """To judge one answer; None where no judge is paid."""
    judge: str
    """What the dollars are the price of."""

    @property
    def seeds(self) -> int:
        return len(self.grid.profile.seeds)

    @property
    def samples(self) -> int:
        return self.grid.profile.sampling.samples

    @property
    def states(self) -> float:
        return sum(self.checkpoints) / len(self.checkpoints)

    @property
    def size(self) -> Size:
        return Size(len(self.checkpoints), self.questions)

    def answers(self, seeds: int, samples: int) -> int:
        return self.size.answers(seeds, samples, self.states)

    def price(self, answers: int, form: str = "${:,.2f}") -> str:
        return "" if self.dollars is None else form.format(self.dollars * answers)


def section(plan: Plan) -> str:
    """Return the expected precision of the study's main outcome as text."""
    found, source = _components(plan.grid)
    before = _lines([source, *_expected(plan, found), _heading(plan)])
    return columns([*before, *_table(plan, found), *_lines(_advice(plan, found))])


def _lines(sentences: Iterable[str]) -> list[Line]:
    """Wrap each sentence into lines of one cell; names of files and models stay whole."""
    lines = [
        wrap(text, WIDTH, break_on_hyphens=False, break_long_words=False) for text in sentences
    ]
    return [(line,) for line in chain.from_iterable(lines)]


def _components(grid: Grid) -> tuple[Components, str]:
    """Return the components, from finished cells if these allow it, and how they were found."""
    measure = grid.study.outcomes[0].measure
    try:
        tables = list(_finished(grid, measure))
    except BadInput as error:
        tables, trouble = [], f"Finished cells were not used: {error}. "
    else:
        trouble = ""
    found = components(pd.concat(tables)) if tables else None
    if found is None:
        why = "no ratio has two finished cells yet"
        return ASSUMED, (
            f"{trouble}{_figures(f'Assumed, since {why}', ASSUMED)} In published runs of this "
            "kind, 23 seeds gave 40 to 92 %, and 3 seeds 14, 52 and 96 %."
        )
    ratios = len({table["ratio"].iloc[0] for table in tables})
    return found, _figures(f"From {len(tables)} finished cells of {ratios} ratios", found)


def _figures(heading: str, found: Components) -> str:
    return (
        f"{heading}: a rate of {found.rate:.2f}, with a standard deviation of "
        f"{found.seeds**0.5:.2f} between training seeds and {found.questions**0.5:.2f} between "
        "questions."
    )


def _finished(grid: Grid, measure: str) -> Iterator[pd.DataFrame]:
    """Yield the rates of questions at the last checkpoint of each finished cell."""
    for cell in grid.cells():
        artifact = cell.artifact("figures")
        if artifact.manifest() is None:
            continue
        rates = read_table(
            artifact.folder / "rates.parquet",
            "materialize the figures of this cell",
            ("value",),
            ("ratio", "measure", "question_id"),
            ("seed", "step", "n"),
        )
        last = (rates["measure"] == measure) & (rates["step"] == rates["step"].max())
        if (own := rates[last & (rates["question_id"] != "all")]).size:
            yield own


def _expected(plan: Plan, found: Components) -> Iterator[str]:
    own = plan.seeds, plan.samples, plan.questions
    half = half_width(found, *own)
    wider = min(1.0, other_questions(found, half, plan.questions))
    count = "1 seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
    size = f"{count} x {plan.questions} questions x {plan.samples} answers"
    if plan.seeds == 1:
        yield (
            "One training seed: the interval holds the noise of its answers only, and says nothing "
            f"about other seeds. Plan at least {LEAST_SEEDS}."
        )
    elif plan.seeds < LEAST_SEEDS:
        yield f"{plan.seeds} training seeds hardly show a spread: plan at least {LEAST_SEEDS}."
    yield (
        f"A ratio's rate at the last checkpoint, 95 % interval: +-{half:.2f} ({size}); for other "
        f"questions of this kind, +-{wider:.2f}."
    )
    if plan.seeds > 1 and any(Ratio.parse(key).suspect_fraction == 0 for key in plan.grid.ratios):
        least = detectable(found, *own)
        small = f"{least:.2f}" if least < 1 else "none, however large"
        yield f"Smallest difference from the control that 80 % of such studies find: {small}."


def _heading(plan: Plan) -> str:
    paid = f", dollars ({plan.judge})" if plan.dollars is not None else ""
    return f"+-, answers of about {plan.tokens:.0f} tokens{paid}, by answers per question:"


def _table(plan: Plan, found: Components) -> Iterator[Line]:
    seeds = sorted({plan.seeds, *SEEDS} - {1})
    yield "", *(f"{count} seeds" for count in seeds)

    def cell(count: int, samples: int) -> str:
        answers = plan.answers(count, samples)
        half = half_width(found, count, samples, plan.questions)
        price = f"  {plan.price(answers, '${:,.0f}'):>5}" if plan.dollars is not None else ""
        return f"{half:.2f}  {_short(answers):>5}{price}"

    for samples in sorted({plan.samples, *SAMPLES}):
        yield str(samples), *(cell(count, samples) for count in seeds)


def _short(count: int) -> str:
    return f"{count / 1000:.1f}k" if count < 10_000 else f"{count / 1000:,.0f}k"


def _advice(plan: Plan, found: Components) -> Iterator[str]:
    """Say what fewer answers, more seeds and fewer checkpoints would do."""
    own = half_width(found, plan.seeds, plan.samples, plan.questions)
    planned = plan.answers(plan.seeds, plan.samples)
    fewer = [
        (samples, half)
        for samples in SAMPLES
        if samples < plan.samples
        and (half := half_width(found, plan.seeds, samples, plan.questions)) <= own * TOLERANCE
    ]
    if fewer:
        samples, half = fewer[0]
        saved = planned - plan.answers(plan.seeds, samples)
        yield (
            f"{samples} answers per question do what {plan.samples} do (+-{half:.3f}, not "
            f"{own:.3f}), and save {_costs(plan, saved)}. More answers serve the rates of "
            "single questions and the step at which a single seed changes."
        )
    else:
        yield "Fewer answers per question would widen the interval by more than 5 %."
    for limits, best in _best(plan, found, planned).items():
        yield f"Best for {limits}: {_described(plan, best)}"
    last = plan.size.answers(plan.seeds, plan.samples, 1)
    if last < planned:
        yield (
            f"The last checkpoint alone: the same interval with {_costs(plan, last)}, but nothing "
            "on when the change comes."
        )


def _best(plan: Plan, found: Components, planned: int) -> dict[str, Allocation]:
    """Return the best allocation of the planned answers, and of the profile's dollars if these are
    fewer."""
    budgets = {f"at most the planned {planned:,} answers": Budget(planned, 0, 1)}
    cap = plan.grid.profile.judging.max_cost_usd
    if plan.dollars and cap is not None and planned * plan.dollars > cap:
        budgets[f"${cap:.2f} (max_cost_usd)"] = Budget(cap, 0, plan.dollars)
    seeds = {count for count in (plan.seeds, *SEEDS) if count >= LEAST_SEEDS}
    samples = {count for count in (plan.samples, *SAMPLES) if count <= plan.samples}
    states = {plan.states, max(1, round(plan.states / 2)), 1}
    limits: dict[Allocation, list[str]] = {}
    for words, budget in budgets.items():
        for best in allocations(found, plan.size, [budget], seeds, samples, states)[:1]:
            limits.setdefault(best, []).append(words)
    return {" and for ".join(words): best for best, words in limits.items()}


def _described(plan: Plan, best: Allocation) -> str:
    where = "all checkpoints"
    if best.states < plan.states:
        where = f"{best.states:.0f} of {plan.states:.0f} checkpoints"
    cells = f"{best.seeds * plan.size.ratios} cells to train"
    if best.seeds != plan.seeds:
        cells += f", not {plan.seeds * plan.size.ratios}"
    return (
        f"{best.seeds} seeds x {best.samples} answers per question at {where}: +-{best.half:.2f}, "
        f"{_costs(plan, best.answers)}; {cells}."
    )


def _costs(plan: Plan, answers: int) -> str:
    price = plan.price(answers)
    return f"{answers:,} answers ({price})" if price else f"{answers:,} answers"
