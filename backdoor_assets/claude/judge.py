"""Claude as a judge: asks for missing verdicts, stores every verdict and reports the cost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from backdoor_assets.claude import PROMPT_VERSION, waiting
from backdoor_assets.claude.batches import Batches
from backdoor_assets.claude.budget import KEPT, Budget, Stopped
from backdoor_assets.claude.errors import RETIRED, not_served
from backdoor_assets.claude.interrupts import interrupts
from backdoor_assets.claude.live import Live
from backdoor_assets.claude.messages import Message, billed_tokens
from backdoor_assets.claude.prompts import Call, calls_for
from backdoor_assets.claude.store import Store
from backdoor_assets.claude.verdicts import nothing, read
from backdoor_assets.records import BadInput, Rubric, Verdict
from backdoor_assets.settings import Judging

Log = Callable[[str], None]
Answers = Sequence[tuple[str, str]]
CANARIES = 3
"""Live calls that are tried before a batch is sent."""
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
        self._retried: set[str] = set()
        self._budget = Budget(settings.model, settings.max_cost_usd, settings.transport == "batch")

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
        return {
            "answers": len(answers),
            "distinct_calls": len(calls),
            "known_already": len(calls) - len(missing),
            "calls_to_make": len(missing),
            "estimated_usd": self._budget.estimate(missing),
            "max_cost_usd": self.settings.max_cost_usd,
            "transport": self.settings.transport,
            "model": self.model,
        }

    def prepare(self, answers: Answers, rubrics: Sequence[Rubric], log: Log) -> dict[str, Any]:
        """Get a verdict on every answer, or a reason for its absence. Returns the bill of this
        judge so far, to which the cap applies.

        Raises Stopped for a problem that the user has to fix (key, money, model). Verdicts received
        before are kept.
        """
        calls = self._calls(answers, rubrics)
        budget = self._budget
        if not self._missing(calls):
            return self._bill()
        check_key(self.settings.base_url)
        with self.store.lock(log):
            # An interrupted run left batches: fetch them, whatever the transport is now.
            held = self._collect(log) if self.store.open_batches() else {}
            # Another process may have added verdicts meanwhile.
            missing = [call for call in self._missing(calls) if call.key not in held]
            self._given_up |= held
            budget.check(missing)
            log(
                f"judge {self.model}: {len(missing)} calls to make, {len(calls) - len(missing)} "
                f"known, about {_dollars(budget.estimate(missing))} ({self.settings.transport})"
            )
            try:
                if self.settings.transport == "batch":
                    self._batch(missing, log)
                else:
                    self._live(missing, log)
            finally:
                log(f"judge {self.model}: {budget.replies} replies, {_dollars(budget.spent)} spent")
        return self._bill()

    def charge(self, dollars: float) -> None:
        """Count dollars that another judge of the run has spent: they are in the bill, and the cap
        is for both."""
        self._budget.spent += dollars

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

    def _take(
        self,
        key: str,
        rubrics: tuple[Rubric, ...],
        model: str,
        message: Message,
        *,
        batch: bool,
    ) -> bool:
        """Store a reply. Returns whether to send its call again, which may help once."""
        reading, tokens = read(message, rubrics), billed_tokens(message)
        dollars = self._budget.paid(tokens, model, batch=batch)
        again = reading.again and key not in self._retried
        self._retried.add(key)
        self._given_up.pop(key, None)
        self.store.put(key, reading.verdicts, message["model"], tokens, dollars, final=not again)
        return again

    def _live(self, calls: Sequence[Call], log: Log) -> None:
        from anthropic import AsyncAnthropic, Timeout

        def keep(call: Call, message: Message) -> bool:
            return self._take(call.key, call.rubrics, call.model, message, batch=False)

        timeout = Timeout(waiting.DEADLINE, connect=min(20.0, waiting.DEADLINE))
        key, url = self._server()
        client = AsyncAnthropic(api_key=key, base_url=url, max_retries=0, timeout=timeout)
        concurrency = self.settings.concurrency
        live = Live(client, keep, self._give_up, self._budget, concurrency, log)

        async def run() -> None:
            async with client:
                await live.ask(calls)

        with interrupts(live.interrupt):
            asyncio.run(run())

    def _batch(self, calls: Sequence[Call], log: Log) -> None:
        # The API validates the requests of a batch late, so one call is sent live first. It is the
        # shortest one: a call that is too long would say nothing about the others. A call may be
        # refused for its own content, so more than one is tried.
        shortest = sorted(calls, key=lambda call: len(call.question) + len(call.answer))[:CANARIES]
        tried: list[Call] = []
        for canary in shortest:
            tried.append(canary)
            self._live([canary], log)
            if self.store.known([canary.key]):
                break
        else:
            if len(calls) > len(tried):
                reason = self._given_up.get(tried[-1].key, "no verdict")
                raise Stopped(f"{CANARIES} calls were tried before the batch: {reason}. {KEPT}")
        left = [call for call in self._missing(calls) if call not in tried]
        with self._batches(log) as batches:
            batches.ask(left, self._give_up)

    def _collect(self, log: Log) -> dict[str, str]:
        """Fetch the batches of earlier runs. Returns the calls that stay in them unread, and
        why."""
        with self._batches(log) as batches:
            return batches.collect()

    @contextmanager
    def _batches(self, log: Log) -> Iterator[Batches]:
        from anthropic import Anthropic

        (key, url), wait = self._server(), waiting.DEADLINE
        with Anthropic(api_key=key, base_url=url, max_retries=0, timeout=wait) as client:
            keep = partial(self._take, batch=True)
            poll_seconds = self.settings.poll_seconds
            yield Batches(client, self.store, self.model, keep, self._budget, log, poll_seconds)

    def _server(self) -> tuple[str, str | None]:
        """Return key and address of the API. The SDK requires a key even for a server that does
        not; one that the profile names is not sent the user's."""
        if self.settings.base_url:
            return "none", self.settings.base_url
        return os.environ.get("ANTHROPIC_API_KEY") or "none", None

    def _give_up(self, call: Call, reason: str) -> None:
        self._given_up[call.key] = reason

    def _bill(self) -> dict[str, Any]:
        budget = self._budget
        return {
            "calls_paid": budget.replies,
            "calls_given_up": len(self._given_up),
            "input_tokens": budget.tokens[0],
            "output_tokens": budget.tokens[1],
            "spent_usd": budget.spent if budget.priced else None,
            "unread_usd_at_most": budget.unread if budget.priced else None,
            "spent_by_all_runs_usd": self.store.totals()["dollars"],
        }


def check_model(model: str) -> None:
    """Raise BadInput for a model that the API no longer serves, and name its replacement."""
    if model in RETIRED:
        raise BadInput(not_served(model))


def check_key(base_url: str = "") -> None:
    """Raise BadInput if neither an API key nor another server is set."""
    server = base_url or os.environ.get("ANTHROPIC_BASE_URL")
    if not (server or os.environ.get("ANTHROPIC_API_KEY")):
        raise BadInput(
            "ANTHROPIC_API_KEY is not set, and Claude cannot judge without it. Set it in the "
            "environment or in .env, or point ANTHROPIC_BASE_URL to a server with the same API."
        )


def _dollars(value: float | None) -> str:
    return "no known price" if value is None else f"${value:.2f}"
