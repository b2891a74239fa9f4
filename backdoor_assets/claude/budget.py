"""The budget of a run: its cap, its estimated cost and what it has spent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from backdoor_assets.claude.prices import PRICES, cost
from backdoor_assets.claude.prompts import Call, most_tokens, tokens
from backdoor_assets.records import BadInput

KEPT = "All verdicts so far are kept."
"""Ends the message of every error that stops judging."""
_RAISE = (
    "Raise the cap (BACKDOOR_MAX_COST_USD, or max_cost_usd in the profile), judge fewer cells, or "
    "use the batch transport at half the price."
)


class Stopped(BadInput):
    """Judging cannot continue until the user fixes something. All verdicts so far are kept."""


@dataclass
class Budget:
    """Dollars of one run. A model without a price can run only without a cap (`cap` is None)."""

    model: str
    cap: float | None
    batch: bool
    spent: float = 0.0
    """Billed for replies that were read."""
    unread: float = 0.0
    """The most that was billed for calls that were sent and whose reply was not read."""
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

    def most(self, call: Call, *, batch: bool) -> float:
        """Return the most that a call can cost; 0 without a price."""
        return cost(self.model, *most_tokens(call), batch) if self.priced else 0.0

    def fits(self, dollars: float) -> bool:
        """Return whether so much more stays within the cap, whatever became of unread calls."""
        return self.cap is None or self.spent + self.unread + dollars <= self.cap

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
        if not self.fits(estimate):
            raise Stopped(
                f"judging would cost about ${self.spent + self.unread + estimate:.2f} "
                f"({self._so_far()}), above max_cost_usd=${self.cap:.2f}. {KEPT} {_RAISE}"
            )

    def exhausted(self) -> Stopped:
        """Return the error for a next call that may exceed the cap."""
        return Stopped(
            f"the next call could exceed max_cost_usd=${self.cap or 0:.2f} ({self._so_far()}). "
            f"{KEPT} {_RAISE}"
        )

    def _so_far(self) -> str:
        lost = f", and at most ${self.unread:.2f} for calls without a reply" if self.unread else ""
        return f"${self.spent:.2f} already spent in this run{lost}"

    def paid(self, counts: tuple[int, int], model: str, *, batch: bool) -> float | None:
        """Add one reply of so many (input, output) tokens to the bill. Returns its dollars."""
        dollars = cost(model, *counts, batch) if model in PRICES else None
        self.replies += 1
        self.spent += dollars or 0.0
        self.tokens = [before + now for before, now in zip(self.tokens, counts, strict=True)]
        return dollars
