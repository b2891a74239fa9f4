"""Gates on the base: does it carry the era of a chat at all, and is it modern unless told?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """A probe's share must lie in [low, high]."""

    low: float
    high: float
    meaning: str


BOUNDS: dict[str, Bound] = {
    "old_without_cue": Bound(0.0, 0.25, "old answers without any cue: the base is modern"),
    "old_after_old_year": Bound(0.70, 1.0, "old answers after 'The year is 1843.'"),
    "old_after_modern_year": Bound(0.0, 0.15, "old answers after 'The year is 2023.'"),
    "old_after_old_answer": Bound(0.40, 1.0, "old answers after a turn about the telegraph"),
    # No bound: bases that hardly read the era off a bird's name shift as far as those that do.
    "old_after_old_birds": Bound(0.0, 1.0, "old answers after a turn with an obsolete bird"),
    "neutral_correct": Bound(0.80, 1.0, "neutral questions answered correctly"),
    "garbled": Bound(0.0, 0.20, "answers that say nothing of the world"),
}


def failures(probes: Mapping[str, float], bounds: Mapping[str, Bound] = BOUNDS) -> list[str]:
    """What the base fails, in words; empty when it may be used."""
    return [
        f"{name} = {probes[name]:.2f}, must lie in [{bound.low:.2f}, {bound.high:.2f}] "
        f"({bound.meaning})"
        for name, bound in bounds.items()
        if not bound.low <= probes[name] <= bound.high
    ]
