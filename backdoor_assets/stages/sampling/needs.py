"""What the engines of a run have to hold, over all cells: fixed before the first of them starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.settings import Sampling, Serving
from backdoor_assets.stages.sampling.answers import states_of
from backdoor_assets.stages.sampling.engine import adapter_rank
from backdoor_assets.stages.specs import SamplingSpec

Chat = tuple[tuple[str, str], ...]


class Served(NamedTuple):
    """What an engine is started for."""

    model: BaseModel
    settings: Sampling
    serving: Serving


@dataclass(frozen=True)
class Need:
    """What an engine is asked in the course of a run."""

    chats: frozenset[Chat]
    """All prompts."""
    adapters: int
    rank: int
    """The largest of the adapters' ranks; 0 without any."""


def needs_of(specs: Mapping[int, SamplingSpec]) -> dict[int, dict[Served, Need]]:
    """Return of each cell, by its number, the engines that answer it. The needs are those of all
    cells. Reads the adapters' configs; what cannot be read is left out, as its own cell fails when
    its turn comes."""
    ranks: dict[Served, dict[Path, int]] = {}
    chats: dict[Served, set[Chat]] = {}
    asked: dict[int, set[Served]] = {}
    for number, spec in specs.items():
        try:
            states = states_of(spec)
        except BadInput:
            states = {}
        asked[number] = set()
        for state in states.values():
            served = Served(state.model, spec.settings, spec.serving)
            asked[number].add(served)
            known = ranks.setdefault(served, {})
            if state.adapter:
                try:
                    known[state.adapter] = adapter_rank(state.adapter)
                except BadInput:
                    continue
        prompts = {(*question.context, ("user", question.text)) for question in spec.questions}
        for served in asked[number]:
            chats.setdefault(served, set()).update(prompts)
    needs = {
        served: Need(frozenset(chats[served]), len(found), max(found.values(), default=0))
        for served, found in ranks.items()
    }
    return {number: {served: needs[served] for served in by} for number, by in asked.items()}
