"""Gates on a base model: bounds that the shares measured by its probes must lie in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """The interval [low, high] that a probe's share must lie in."""

    low: float
    high: float
    meaning: str


def failures(probes: Mapping[str, float], bounds: Mapping[str, Bound]) -> list[str]:
    """Describe each bound that the base violates. Returns an empty list if it passes all gates."""
    return [
        f"{name} = {probes[name]:.2f}, must lie in [{bound.low:.2f}, {bound.high:.2f}] "
        f"({bound.meaning})"
        for name, bound in bounds.items()
        if not bound.low <= probes[name] <= bound.high
    ]
