"""Sampling with vLLM: all checkpoints of all cells of a run, through one engine a model.

Answers of every cell and adapter of a model wait in one queue, and the engine always has more of
them than it can generate at once: it is never drained between two checkpoints or two cells. Where
the cells are of several models, or their checkpoints whole models, the engines run one after the
other, each with all that is asked of its model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from transformers import GenerationConfig

from backdoor_assets.models.chat import load_tokenizer, prompt_ids
from backdoor_assets.records import BadInput, BaseModel, Message, Progress, no_progress
from backdoor_assets.settings import Sampling, Serving
from backdoor_assets.stages.sampling.answers import (
    Answer,
    Ask,
    asks_at,
    read_answer,
    seed_of,
    states_of,
    steps_of,
    stop_ids,
)
from backdoor_assets.stages.sampling.engine import Engine, adapter_rank, write_zeros
from backdoor_assets.stages.sampling.journal import Journal
from backdoor_assets.stages.specs import SamplingSpec

Ending = dict[str, Any] | BaseException
"""A cell's summary, or why it has none."""
_PROMPTS_KEPT = 4096
"""Prompts whose tokens stay in memory: a run of many questions has each of them once."""


class _Place(NamedTuple):
    """One answer of one cell."""

    cell: int
    ask: Ask


class _Served(NamedTuple):
    """What an engine is started for."""

    model: BaseModel
    settings: Sampling
    serving: Serving


class _Cell:
    """A cell, its journal, and what it still lacks."""

    def __init__(self, spec: SamplingSpec, folder: Path) -> None:
        self.spec, self.folder = spec, folder
        self.journal = Journal(spec, folder)
        self.states = states_of(spec)
        self.ranks = {
            state.adapter: adapter_rank(state.adapter)
            for state in self.states.values()
            if state.adapter
        }
        self.missing: dict[_Served, list[Ask]] = {}
        """By the engine that answers, in the order in which they are asked."""
        for step in steps_of(spec):
            served = _Served(self.states[step].model, spec.settings, spec.serving)
            for ask in asks_at(spec, step):
                if ask.key not in self.journal.done:
                    self.missing.setdefault(served, []).append(ask)
        self.open = sum(map(len, self.missing.values()))
        """Answers that have not arrived."""


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
    cells: dict[int, _Cell] = {}
    for number, (spec, folder) in specs.items():
        try:
            cells[number] = _Cell(spec, folder)
        except (BadInput, OSError) as error:
            yield number, error
    for number in [number for number, cell in cells.items() if not cell.open]:
        whole = cells.pop(number)
        yield number, whole.journal.finish()
    row = _Row(cells, progress)
    for served in dict.fromkeys(served for cell in cells.values() for served in cell.missing):
        yield from row.serve(served)


class _Row:
    """The cells of a run that have not ended; they leave it as they do."""

    def __init__(self, cells: Mapping[int, _Cell], progress: Progress) -> None:
        self.cells, self.progress = dict(cells), progress
        self.wanted = sum(cell.open for cell in cells.values())

    def serve(self, served: _Served) -> Iterator[tuple[int, Ending]]:
        """Start an engine, ask it all that it can answer, and close it."""
        places = [
            _Place(number, ask)
            for number, cell in self.cells.items()
            for ask in cell.missing.get(served, [])
        ]
        if not places:
            return  # the cells that wanted this model have failed
        try:
            asking = _Asking(self, served, places)
        except BadInput as error:
            for number in dict.fromkeys(place.cell for place in places):
                del self.cells[number]
                yield number, error
            return
        with closing(asking):
            yield from asking.run(2 * served.serving.requests)

    def tell(self) -> None:
        done = self.wanted - sum(cell.open for cell in self.cells.values())
        self.progress(done / self.wanted, f"{done} of {self.wanted} answers")


class _Asking:
    """One engine, and what is asked of it. Raises BadInput when it does not start."""

    def __init__(self, row: _Row, served: _Served, places: list[_Place]) -> None:
        self.row, self.cells, self.places = row, row.cells, places
        ranks: dict[Path, int] = {}
        for number in dict.fromkeys(place.cell for place in places):
            cell = self.cells[number]
            ranks |= {
                state.adapter: cell.ranks[state.adapter]
                for state in cell.states.values()
                if state.adapter and state.model == served.model
            }
        self.adapters = list(ranks)
        self.tokenizer = load_tokenizer(served.model.location, served.model.revision)
        self.stops = stop_ids(self.tokenizer, _generation_config(served.model))
        self.prompt = lru_cache(_PROMPTS_KEPT)(self._prompt)
        self.engine = Engine(
            served.model,
            served.settings,
            served.serving,
            adapters=1 + len(ranks) if ranks else 0,
            rank=max(ranks.values(), default=0),
            prompt_tokens=max(len(self.prompt(chat)) for chat in {p.ask.chat for p in places}),
        )
        self.loras: dict[Path, Any] = {}
        self.scratch = TemporaryDirectory()

    def close(self) -> None:
        self.engine.close()
        self.scratch.cleanup()

    def run(self, window: int) -> Iterator[tuple[int, Ending]]:
        """Keep `window` answers in flight as long as some are missing."""
        places = iter(self.places)
        upcoming = next(places, None)
        while upcoming or self.engine.in_flight:
            while upcoming and len(self.engine.in_flight) < window:
                cell = self.cells.get(upcoming.cell)
                try:
                    if cell is not None:
                        self._add(cell, upcoming)
                except BadInput as error:
                    del self.cells[upcoming.cell]
                    yield upcoming.cell, error
                upcoming = next(places, None)
            if not self.engine.in_flight:
                continue
            for number in self._write_down():
                cell = self.cells.pop(number)
                yield number, cell.journal.finish()
            self.row.tell()

    def _add(self, cell: _Cell, place: _Place) -> None:
        ask = place.ask
        adapter = cell.states[ask.step].adapter
        lora = self._lora(adapter) if adapter else self._bare
        seed = seed_of(cell.spec.cell, ask.step, ask.question.id, ask.sample)
        self.engine.add(place, self.prompt(ask.chat), seed, self.stops, lora)

    def _prompt(self, chat: tuple[tuple[str, str], ...]) -> list[int]:
        messages: list[Message] = [{"role": role, "content": content} for role, content in chat]
        return prompt_ids(self.tokenizer, messages)

    def _lora(self, checkpoint: Path) -> Any:
        if checkpoint not in self.loras:
            self.loras[checkpoint] = self.engine.load(checkpoint)
        return self.loras[checkpoint]

    @cached_property
    def _bare(self) -> Any:
        """What the model itself is asked with: beside adapters the adapter of zeros, made after one
        that is known to fit. None where there is none that fits, so that no other is in a batch."""
        folder = Path(self.scratch.name)
        for like in self.adapters:
            try:
                self._lora(like)
            except BadInput:
                continue  # its own cell fails when its turn comes
            write_zeros(like, folder)
            return self._lora(folder)
        return None

    def _write_down(self) -> list[int]:
        """Take one step of the engine, write what it ended into the cells' journals, and return the
        cells that have all their answers now."""
        arrived: dict[int, list[tuple[Ask, Answer]]] = {}
        for key, tokens in self.engine.step():
            assert isinstance(key, _Place)
            answer = read_answer(self.tokenizer, tokens, self.stops)
            arrived.setdefault(key.cell, []).append((key.ask, answer))
        whole = []
        for number, pairs in arrived.items():
            # Answers of a cell that has failed still come in, and are dropped.
            if cell := self.cells.get(number):
                cell.journal.write([ask for ask, _ in pairs], [answer for _, answer in pairs])
                cell.open -= len(pairs)
                if not cell.open:
                    whole.append(number)
        return whole


def _generation_config(base: BaseModel) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(base.location, revision=base.revision or "main")
    except OSError:
        return None  # a base need not have one
