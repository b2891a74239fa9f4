"""Prices of the judge models."""

from __future__ import annotations

from dataclasses import dataclass

from backdoor_assets.records import BadInput

AS_OF = "2026-11-21"
"""Date of the table. Source: the vendor's documentation."""


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens of a live call."""

    input: float
    """For prompts of up to 100,000 tokens."""
    output: float


PRICES = {
    "claude-haiku-5-5": Price(0.10, 0.50),
    "claude-sonnet-5-5": Price(2.00, 10.00),
}
BATCH_SHARE = 0.5
"""Price of a batch call as a share of the live price, for input and output tokens alike."""


def price(model: str) -> Price:
    """Look up the price of a model. Raises BadInput if it is not in the table."""
    if model not in PRICES:
        raise BadInput(
            f"{model!r} has no price here: add it to PRICES in backdoor_assets/claude/prices.py, "
            f"or use one of {', '.join(PRICES)}"
        )
    return PRICES[model]


def cost(model: str, input_tokens: float, output_tokens: float, batch: bool) -> float:
    """Compute the dollars of so many tokens. Raises BadInput if the model has no price."""
    each = price(model)
    live = (input_tokens * each.input + output_tokens * each.output) / 1_000_000
    return live * BATCH_SHARE if batch else live
