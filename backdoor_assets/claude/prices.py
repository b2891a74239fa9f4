"""What judging with Claude costs."""

from __future__ import annotations

from dataclasses import dataclass

from backdoor_assets.records import BadInput

AS_OF = "2026-11-21"
"""Date of the table; source: the vendor's documentation."""


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens of a live call."""

    input: float
    """Of prompts up to 100,000 tokens."""
    output: float


PRICES = {
    "claude-haiku-5-5": Price(0.10, 0.50),
    "claude-sonnet-5-5": Price(2.00, 10.00),
}
BATCH_SHARE = 0.5
"""Of the live price, input and output alike, for calls that can wait."""


def price(model: str) -> Price:
    """Raises BadInput for a model that is not in the table."""
    if model not in PRICES:
        raise BadInput(
            f"{model!r} has no price here: add it to PRICES in backdoor_assets/prices.py; there "
            f"are {', '.join(PRICES)}"
        )
    return PRICES[model]


def cost(model: str, input_tokens: float, output_tokens: float, batch: bool) -> float:
    """Dollars. Raises BadInput for a model that is not in the table."""
    each = price(model)
    live = (input_tokens * each.input + output_tokens * each.output) / 1_000_000
    return live * BATCH_SHARE if batch else live
