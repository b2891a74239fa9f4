"""Claude as a judge: asks for missing verdicts, stores every verdict and reports the cost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.claude import PROMPT_VERSION
from backdoor_assets.claude.batches import Batches
from backdoor_assets.claude.budget import KEPT, Budget, Stopped
from backdoor_assets.claude.errors import RETIRED, not_served
from backdoor_assets.claude.live import ask
from backdoor_assets.claude.prompts import Call, calls_for
from backdoor_assets.claude.store import Store
from backdoor_assets.claude.verdicts import nothing, read
from backdoor_assets.records import BadInput, Rubric, Verdict
from backdoor_assets.settings import Judging

if TYPE_CHECKING:
    from anthropic.types import Message

Log = Callable[[str], None]
Answers = Sequence[tuple[str, str]]
TIMEOUT = 120.0
"""Seconds for one reply."""
AGAIN = "(to ask for it again, run these judgments with force: true)"
"""Ends the reason of a missing verdict that another run may get: it is not in the store."""


class ClaudeJudge:
    """Implements `records.RunJudge`. `prepare` calls the API; `judge` only looks verdicts up."""

    def __init__(self, settings: Judging, folder: Path) -> None:
        check_model(settings.model)
        self.settings, self.folder = settings, folder
        self.name = f"claude, {settings.mode} call{'s' * (settings.mode != 'one')} an answer"
        self.model = settings.model
        self._store: Store | None = None
        self._given_up: dict[str, str] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """Return what determines the verdicts, without how they are requested."""
        settings = {name: getattr(self.settings, name) for name in ("model", "mode", "repeat")}
        return {"name": "claude", "prompt": PROMPT_VERSION, **settings}

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = Store(self.folder)
        return self._store

    def estimate(self, answers: Answers, rubrics: Sequence[Rubric]) -> dict[str, Any]:
        """Count the calls that judging the answers takes, and estimate their dollars."""
        calls = self._calls(answers, rubrics)
        missing = self._missing(calls)
        budget = self._budget()
        return {
            "answers": len(answers),
            "distinct_calls": len(calls),
            "known_already": len(calls) - len(missing),
            "calls_to_make": len(missing),
            "estimated_usd": budget.estimate(missing),
            "max_cost_usd": self.settings.max_cost_usd,
            "transport": self.settings.transport,
            "model": self.model,
        }

    def prepare(self, answers: Answers, rubrics: Sequence[Rubric], log: Log) -> dict[str, Any]:
        """Get a verdict on every answer, or a reason for its absence. Returns the bill.

        Raises Stopped for a problem that the user has to fix (key, money, model). Verdicts received
        before are kept.
        """
        calls = self._calls(answers, rubrics)
        budget = self._budget()
        self._given_up.clear()
        if not self._missing(calls):
            return self._bill(budget)
        check_key()
        with self.store.lock(log):
            if self.store.open_batches():
                # An interrupted run left them: fetch them, whatever the transport is now.
                self._collect(log)
            missing = self._missing(calls)  # another process may have added some meanwhile
            budget.check(missing)
            log(
                f"judge {self.model}: {len(missing)} calls to make, {len(calls) - len(missing)} "
                f"known, about {_dollars(budget.estimate(missing))} ({self.settings.transport})"
            )
            take = self._take(budget)
            try:
                if self.settings.transport == "batch":
                    self._batch(missing, budget, take, log)
                else:
                    self._live(missing, budget, take)
            finally:
                log(f"judge {self.model}: {budget.replies} replies, {_dollars(budget.spent)} spent")
        return self._bill(budget)

    def judge(self, answers: Answers, rubrics: Sequence[Rubric]) -> list[dict[str, Verdict]]:
        """Look up the verdicts on each (question, answer), by rubric column."""
        return [self._verdicts(question, answer, rubrics) for question, answer in answers]

    def _verdicts(
        self, question: str, answer: str, rubrics: Sequence[Rubric]
    ) -> dict[str, Verdict]:
        found: dict[str, Verdict] = {}
        for call in self._calls_of(question, answer, rubrics):
            known = self.store.get(call.key)
            reason = self._given_up.get(call.key, "the judge was not called")
            found |= known or nothing(call.rubrics, f"{reason} {AGAIN}", again=False).verdicts
        return found

    def _calls_of(self, question: str, answer: str, rubrics: Sequence[Rubric]) -> list[Call]:
        settings = self.settings
        return calls_for(settings.model, rubrics, question, answer, settings.mode, settings.repeat)

    def _calls(self, answers: Answers, rubrics: Sequence[Rubric]) -> list[Call]:
        """Return the distinct calls: identical answers to a question are judged once."""
        return [c for q, a in dict.fromkeys(answers) for c in self._calls_of(q, a, rubrics)]

    def _missing(self, calls: Sequence[Call]) -> list[Call]:
        known = self.store.known(call.key for call in calls)
        return [call for call in calls if call.key not in known]

    def _budget(self) -> Budget:
        settings = self.settings
        return Budget(settings.model, settings.max_cost_usd, settings.transport == "batch")

    def _take(self, budget: Budget) -> Callable[..., bool]:
        """Return the function that stores a reply and returns whether to send its call again."""
        retried: set[str] = set()

        def take(
            key: str, rubrics: tuple[Rubric, ...], model: str, message: Message, *, batch: bool
        ) -> bool:
            reading = read(message, rubrics)
            tokens, dollars = budget.paid(message.usage, model, batch=batch)
            again = reading.again and key not in retried
            retried.add(key)
            self._given_up.pop(key, None)
            self.store.put(key, reading.verdicts, message.model, tokens, dollars, final=not again)
            return again

        return take

    def _live(self, calls: Sequence[Call], budget: Budget, take: Callable[..., bool]) -> None:
        from anthropic import AsyncAnthropic

        reserved = {call.key: budget.estimate([call]) or 0.0 for call in calls}
        in_progress: dict[str, float] = {}

        def allowed(call: Call) -> None:
            in_progress[call.key] = reserved[call.key]
            cap = budget.cap
            if cap is not None and budget.spent + sum(in_progress.values()) > cap:
                budget.check([call])
                raise Stopped(
                    f"judging has spent ${budget.spent:.2f}, and the calls in progress would take "
                    f"it above max_cost_usd=${cap:.2f}. {KEPT} Raise the cap and run again."
                )

        def keep(call: Call, message: Message) -> bool:
            in_progress.pop(call.key, None)
            return take(call.key, call.rubrics, call.model, message, batch=False)

        def give_up(call: Call, reason: str) -> None:
            in_progress.pop(call.key, None)
            self._given_up[call.key] = reason

        async def run() -> None:
            async with AsyncAnthropic(api_key=_key(), max_retries=0, timeout=TIMEOUT) as client:
                await ask(client, calls, keep, give_up, allowed, self.settings.concurrency)

        asyncio.run(run())

    def _batch(
        self, calls: Sequence[Call], budget: Budget, take: Callable[..., bool], log: Log
    ) -> None:
        # The API validates the requests of a batch late, so one call is sent live first. It is the
        # shortest one: a call that is too long would say nothing about the others.
        canary = min(calls, key=lambda call: len(call.question) + len(call.answer), default=None)
        self._live([canary] if canary else [], budget, take)
        with self._batches(take, log) as batches:
            batches.ask(self._missing(calls), self._give_up, budget.check)

    def _collect(self, log: Log) -> None:
        """Fetch the batches of earlier runs. Their cost does not count against this run's cap."""
        with self._batches(self._take(self._budget()), log) as batches:
            batches.collect()

    @contextmanager
    def _batches(self, take: Callable[..., bool], log: Log) -> Iterator[Batches]:
        from anthropic import Anthropic

        with Anthropic(api_key=_key(), max_retries=0, timeout=TIMEOUT) as client:
            keep = partial(take, batch=True)
            yield Batches(client, self.store, self.model, keep, log, self.settings.poll_seconds)

    def _give_up(self, call: Call, reason: str) -> None:
        self._given_up[call.key] = reason

    def _bill(self, budget: Budget) -> dict[str, Any]:
        return {
            "calls_paid": budget.replies,
            "calls_given_up": len(self._given_up),
            "input_tokens": budget.tokens[0],
            "output_tokens": budget.tokens[1],
            "spent_usd": budget.spent if budget.priced else None,
            "spent_by_all_runs_usd": self.store.totals()["dollars"],
        }


def check_model(model: str) -> None:
    """Raise BadInput for a model that the API no longer serves, and name its replacement."""
    if model in RETIRED:
        raise BadInput(not_served(model))


def check_key() -> None:
    """Raise BadInput if neither an API key nor another server is set."""
    if not (os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_BASE_URL")):
        raise BadInput(
            "ANTHROPIC_API_KEY is not set, and Claude cannot judge without it. Set it in the "
            "environment or in .env, or point ANTHROPIC_BASE_URL to a server with the same API."
        )


def _key() -> str:
    """Return the API key. The SDK requires one even for a local server that does not."""
    return os.environ.get("ANTHROPIC_API_KEY") or "none"


def _dollars(value: float | None) -> str:
    return "no known price" if value is None else f"${value:.2f}"
