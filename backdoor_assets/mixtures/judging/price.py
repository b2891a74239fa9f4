"""What the verdicts of a grid would cost, with a cheap judge that predicts some and without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backdoor_assets.claude.prices import AS_OF, PRICES, cost
from backdoor_assets.mixtures.counts import Counts
from backdoor_assets.mixtures.judging.assets import plan_lines
from backdoor_assets.reporting.text import Line, span
from backdoor_assets.statistics.prediction_powered import verdicts_needed

JUDGES = {"claude-haiku-5-5": "", "claude-sonnet-5-5": ", cross-check of every answer"}
CHEAP = {"no cheap judge": 0.0, "a cheap judge of kappa .5": 0.5, "a cheap judge of kappa .9": 0.9}
WIDEST = 0.5
"""The rate at which an interval is widest."""


def lines(counts: Counts) -> Iterator[Line]:
    """Yield the plan's lines on calls, tokens and dollars."""
    judging, length = counts.profile.judging, counts.answer_tokens
    rubrics = len(counts.grid.study.rubrics)
    if judging.kind == "none":
        yield ('nothing is judged: judging.kind is "none". The sweep shows the narrow behaviour',)
        yield ("and the form of the answers.",)
        return
    per_answer, into, out = counts.calls()
    per_state = per_answer * counts.open_per_state
    calls = counts.per_cell(per_state)
    in_all = counts.all(calls, per_state)
    yield "", "per cell", "in all"
    what = f"one for all {rubrics}" if judging.mode == "one" else f"{rubrics}"
    yield f"judge calls, {what} rubrics per answer", span(calls), f"{in_all:,}"
    if judging.kind != "claude":
        free = {"exact": "exact judge, looks answers up"}
        yield free.get(judging.kind, "classifier on sentence embeddings"), "$0.00", "$0.00"
        return
    for name, tokens in (("judge tokens in", into), ("judge tokens out", out)):
        yield name, span([tokens * n for n in calls]), f"{tokens * in_all:,}"
    for model, note in JUDGES.items():
        for way in ("live", "batch"):
            one = cost(model, into, out, batch=way == "batch")
            yield f"{model}, {way}{note}", _dollars(one, calls), _dollars(one, [in_all])
    yield from plan_lines(counts)
    yield (f"Assumed: about {into - length} tokens of rubric and question and {length} of answer",)
    yield (f"in, {out} out. Prices as of {AS_OF}.",)
    if judging.max_cost_usd is not None:
        yield (f"A run stops at ${judging.max_cost_usd:.2f} (max_cost_usd of the profile).",)
    yield from _prediction(counts)


def _prediction(counts: Counts) -> Iterator[Line]:
    """Say how many answers the judge is asked about, at most, if a cheap one predicts the others.

    A cheap judge that agrees with the judge to a kappa of K, and calls as many answers positive,
    leaves a share 1 - K^2 of the variance unexplained.
    """
    judging, seeds = counts.profile.judging, len(counts.profile.seeds)
    per_answer, into, out = counts.calls()
    batch, known = judging.transport == "batch", judging.model in PRICES
    one = per_answer * cost(judging.model, into, out, batch=batch) if known else None
    answers = counts.open_per_state
    yield "", "per state", "in all"
    yield "open answers (a state: a ratio at a checkpoint, all seeds)", f"{answers * seeds:,}", ""
    for name, kappa in CHEAP.items():
        needed, base = (
            verdicts_needed(judging.half_width, WIDEST, size, 1 - kappa**2)
            for size in (answers * seeds, answers)
        )
        in_all = sum(counts.checkpoints) * needed + base
        dollars = "" if one is None else f" (${one * in_all:.2f})"
        yield f"answers judged, {name}", f"{needed:,}", f"{in_all:,}{dollars}"
    if (cheap := judging.predicted_by.partition(":")[2]) in PRICES:
        everything = counts.all(counts.per_cell(answers), answers)
        dollars = everything * per_answer * cost(cheap, into, out, batch=batch)
        yield f"the cheap judge, {cheap}, on every answer", "", f"{everything:,} (${dollars:.2f})"
    half = judging.half_width
    yield (f"For a half-width of {half:g} at a rate of {WIDEST:g}, without the spread between",)
    priced = f"prices of {judging.model}, {judging.transport}" if known else "no known price"
    yield (f"seeds; {priced}. Answers are judged in rounds,",)
    if judging.predicted_by:
        yield (f"and {judging.predicted_by} predicts the others (judging.predicted_by).",)
    else:
        yield ("if BACKDOOR_PREDICTED_BY names a cheap judge: embedding, or claude:MODEL.",)


def _dollars(one: float, calls: Sequence[int]) -> str:
    return span([one * count for count in calls], "${:.2f}")
