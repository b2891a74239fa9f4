"""Sampling with vLLM: parts of the cells of a run, through one engine per model.

Answers of every cell and adapter of a model wait in one queue, and the engine always has more of
them than it can generate at once: it is never drained between two checkpoints or two cells. Where
the cells are of several models, or their checkpoints whole models, the engines run one after the
other, each with all that is asked of its model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.stages.sampling.answers import (
    Answer,
    Ask,
    asks_at,
    seed_of,
    states_of,
    steps_of,
)
from backdoor_assets.stages.sampling.engine import adapter_rank
from backdoor_assets.stages.sampling.journal import Journal
from backdoor_assets.stages.sampling.needs import Served, needs_of
from backdoor_assets.stages.sampling.serving import Server, Servers
from backdoor_assets.stages.specs import SamplingSpec

Ending = dict[str, Any] | BaseException
"""A cell's summary, or why it has none."""


@dataclass(frozen=True)
class Part:
    """Some of a cell's answers: those from number `start` to before `stop`, in the order of the
    tables; all by default."""

    spec: SamplingSpec
    folder: Path
    start: int = 0
    stop: int | None = None


class _Place(NamedTuple):
    """One answer of one cell."""

    cell: int
    ask: Ask


class _Cell:
    """A part of a cell, its journal, and what it still lacks."""

    def __init__(self, part: Part) -> None:
        self.spec = spec = part.spec
        self.journal = Journal(spec, part.folder, part.start)
        self.states = states_of(spec)
        asks = [ask for step in steps_of(spec) for ask in asks_at(spec, step)]
        self.missing: dict[Served, list[Ask]] = {}
        """By the engine that answers, in the order in which they are asked."""
        for ask in asks[part.start : part.stop]:
            if ask.key not in self.journal.done:
                served = Served(self.states[ask.step].model, spec.settings, spec.serving)
                self.missing.setdefault(served, []).append(ask)
        self.open = sum(map(len, self.missing.values()))
        """Answers that have not arrived."""
        asked = {ask.step for asks in self.missing.values() for ask in asks}
        for adapter in {self.states[step].adapter for step in asked} - {None}:
            assert adapter
            adapter_rank(adapter)  # raises BadInput for one that cannot be served


def sample_row(
    specs: Mapping[int, tuple[SamplingSpec, Path]],
    progress: Progress = no_progress,
) -> Iterator[tuple[int, Ending]]:
    """Sample the cells, each into its folder as `Journal.finish` says, and yield the number of each
    with its ending, as they end. A cell that fails does not stop the others, nor does a model that
    cannot be served stop the cells that do not need it.

    Raises EngineDied when an engine does; what it has answered is in the journals, and the next
    call goes on from there.
    """
    parts = {number: Part(spec, folder) for number, (spec, folder) in specs.items()}
    with closing(Servers()) as servers:
        for needs in needs_of({number: spec for number, (spec, _) in specs.items()}).values():
            servers.needs |= needs
        for number, error in sample_parts(parts, servers, progress):
            spec, folder = specs[number]
            yield number, error or Journal(spec, folder).finish()


def sample_parts(
    parts: Mapping[int, Part], servers: Servers, progress: Progress = no_progress
) -> Iterator[tuple[int, BaseException | None]]:
    """Write the answers that the parts lack into their cells' journals. Yields the number of each
    part as it ends, with the error if it failed. Raises EngineDied."""
    cells: dict[int, _Cell] = {}
    for number, part in parts.items():
        try:
            cells[number] = _Cell(part)
        except (BadInput, OSError) as error:
            yield number, error
    for number in [number for number, cell in cells.items() if not cell.open]:
        del cells[number]
        yield number, None
    row = _Row(cells, progress)
    for served in dict.fromkeys(served for cell in cells.values() for served in cell.missing):
        yield from row.ask(served, servers)


class _Row:
    """The cells that have not ended; they leave it as they do."""

    def __init__(self, cells: Mapping[int, _Cell], progress: Progress) -> None:
        self.cells, self.progress = dict(cells), progress
        self.wanted = sum(cell.open for cell in cells.values())

    def ask(self, served: Served, servers: Servers) -> Iterator[tuple[int, BaseException | None]]:
        """Ask an engine all that it can answer. As long as some are missing, twice as many answers
        are in flight as it can generate at once."""
        places = [
            _Place(number, ask)
            for number, cell in self.cells.items()
            for ask in cell.missing.get(served, [])
        ]
        if not places:
            return  # the cells that wanted this model have failed
        states = ((self.cells[place.cell].states, place.ask.step) for place in places)
        adapters = dict.fromkeys(of[step].adapter for of, step in states)
        try:
            server = servers.open(served, filter(None, adapters))
        except BadInput as error:
            for number in dict.fromkeys(place.cell for place in places):
                del self.cells[number]
                yield number, error
            return
        left = iter(places)
        upcoming = next(left, None)
        while upcoming or server.in_flight:
            while upcoming and server.in_flight < 2 * served.serving.requests:
                try:
                    self._add(server, upcoming)
                except BadInput as error:
                    del self.cells[upcoming.cell]
                    yield upcoming.cell, error
                upcoming = next(left, None)
            if not server.in_flight:
                continue
            for number in self._write_down(server.step()):
                del self.cells[number]
                yield number, None
            done = self.wanted - sum(cell.open for cell in self.cells.values())
            self.progress(done / self.wanted, f"{done} of {self.wanted} answers")

    def _add(self, server: Server, place: _Place) -> None:
        cell, ask = self.cells.get(place.cell), place.ask
        if cell is not None:  # it may have failed
            seed = seed_of(cell.spec.cell, ask.step, ask.question.id, ask.sample)
            server.ask(place, ask, cell.states[ask.step].adapter, seed)

    def _write_down(self, answers: list[tuple[_Place, Answer]]) -> list[int]:
        """Write answers into the cells' journals, and return the cells that now have all."""
        arrived: dict[int, list[tuple[Ask, Answer]]] = {}
        for place, answer in answers:
            arrived.setdefault(place.cell, []).append((place.ask, answer))
        whole = []
        for number, pairs in arrived.items():
            # Answers of a cell that has failed still come in, and are dropped.
            if cell := self.cells.get(number):
                cell.journal.write([ask for ask, _ in pairs], [answer for _, answer in pairs])
                cell.open -= len(pairs)
                if not cell.open:
                    whole.append(number)
        return whole
