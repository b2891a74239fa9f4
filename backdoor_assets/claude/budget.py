"""The budget of a run: its cap, its estimated cost and what it has spent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from backdoor_assets.claude.prices import PRICES, cost
from backdoor_assets.claude.prompts import Call, tokens
from backdoor_assets.records import BadInput

KEPT = "All verdicts so far are kept."
"""Ends the message of every error that stops judging."""


class Stopped(BadInput):
    """Judging cannot continue until the user fixes something. All verdicts so far are kept."""


@dataclass
class Budget:
    """Dollars of one run. A model without a price can run only without a cap (`cap` is None)."""

    model: str
    cap: float | None
    batch: bool
    spent: float = 0.0
    replies: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    """Input and output tokens, as counted by the API."""

    @property
    def priced(self) -> bool:
        return self.model in PRICES

    def estimate(self, calls: Iterable[Call]) -> float | None:
        """Estimate the dollars of the calls from their characters. Returns None without a price."""
        if not self.priced:
            return None
        counts = [tokens(call) for call in calls]
        return cost(self.model, sum(i for i, _ in counts), sum(o for _, o in counts), self.batch)

    def check(self, calls: Iterable[Call]) -> None:
        """Raise Stopped if the dollars spent plus the estimate of the calls exceed the cap."""
        if self.cap is None:
            return
        estimate = self.estimate(calls)
        if estimate is None:
            raise Stopped(
                f"{self.model!r} has no price in backdoor_assets/claude/prices.py, so max_cost_usd="
                f"{self.cap:g} cannot be enforced. Add its price there, or judge without a cap "
                "(BACKDOOR_MAX_COST_USD=none)."
            )
        if self.spent + estimate > self.cap:
            raise Stopped(
                f"judging would cost about ${self.spent + estimate:.2f} "
                f"(${self.spent:.2f} already spent in this run), "
                f"above max_cost_usd=${self.cap:.2f}. "
                f"{KEPT} Raise the cap (BACKDOOR_MAX_COST_USD, or max_cost_usd in the profile), "
                "judge fewer cells, or use the batch transport at half the price."
            )

    def paid(self, usage: Any, model: str, *, batch: bool) -> tuple[tuple[int, int], float | None]:
        """Add one reply to the bill. Returns its (input, output) tokens and dollars."""
        cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        counts = usage.input_tokens + cached, usage.output_tokens
        dollars = cost(model, *counts, batch) if model in PRICES else None
        self.replies += 1
        self.spent += dollars or 0.0
        self.tokens = [before + now for before, now in zip(self.tokens, counts, strict=True)]
        return counts, dollars
