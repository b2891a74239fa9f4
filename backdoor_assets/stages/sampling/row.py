"""Sampling with vLLM: all checkpoints of all cells of a run through one engine.

Answers of every cell and adapter wait in one queue, and the engine always has more of them than it
can generate at once: it is never drained between two checkpoints or two cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import GenerationConfig

from backdoor_assets.chat import load_tokenizer, prompt_ids
from backdoor_assets.jobs import SamplingJob
from backdoor_assets.records import BadInput, BaseModel, Progress, no_progress
from backdoor_assets.stages.sampling.answers import (
    Answer,
    Ask,
    Journal,
    asks_at,
    read_answer,
    seed_of,
    steps_of,
    stop_ids,
)
from backdoor_assets.stages.sampling.engine import Engine, adapter_rank, write_zeros

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ending = dict[str, Any] | BaseException
"""A cell's summary, or why it has none."""


class _Place(NamedTuple):
    """One answer of one cell."""

    cell: int
    ask: Ask


class _Cell:
    """A cell, its journal, and what it still lacks."""

    def __init__(self, job: SamplingJob, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.journal = Journal(folder)
        self.missing = [
            ask
            for step in steps_of(job)
            for ask in asks_at(job, step)
            if ask.key not in self.journal.done
        ]
        self.checkpoints = dict(job.checkpoints)
        self.rank = max((adapter_rank(path) for path in self.checkpoints.values()), default=0)
        self.open = len(self.missing)
        """Answers that have not arrived."""


def sample_row(
    jobs: Mapping[int, tuple[SamplingJob, Path]],
    progress: Progress = no_progress,
) -> Iterator[tuple[int, Ending]]:
    """Sample the cells, each into its folder as `Journal.finish` says, and yield the number of each
    with its ending, as they end. A cell that fails does not stop the others.

    The jobs are of one base, one Sampling and one Serving. Raises EngineDied when the engine does;
    what it has answered is in the journals, and the next call goes on from there.
    """
    cells: dict[int, _Cell] = {}
    for number, (job, folder) in jobs.items():
        try:
            cells[number] = _Cell(job, folder)
        except (BadInput, OSError) as error:
            yield number, error
    for number in [number for number, cell in cells.items() if not cell.open]:
        whole = cells.pop(number)
        yield number, whole.journal.finish(whole.job, whole.folder)
    if not cells:
        return
    first = next(iter(cells.values())).job
    tokenizer = load_tokenizer(first.base.location, first.base.revision)
    prompts = _prompts(tokenizer, [cell.job for cell in cells.values()])
    engine = Engine(
        first.base,
        first.settings,
        first.serving,
        adapters=1 + sum(len(cell.checkpoints) for cell in cells.values()),
        rank=max(cell.rank for cell in cells.values()),
        prompt_tokens=max(map(len, prompts.values())),
    )
    try:
        yield from _Row(engine, cells, prompts, tokenizer, progress).run(2 * first.serving.requests)
    finally:
        engine.close()


class _Row:
    def __init__(
        self,
        engine: Engine,
        cells: dict[int, _Cell],
        prompts: dict[str, list[int]],
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress,
    ) -> None:
        self.engine, self.cells, self.prompts = engine, cells, prompts
        self.tokenizer, self.progress = tokenizer, progress
        base = next(iter(cells.values())).job.base
        self.stops = stop_ids(tokenizer, _generation_config(base))
        self.loras: dict[Path, Any] = {}
        self.scratch = TemporaryDirectory()

    def run(self, window: int) -> Iterator[tuple[int, Ending]]:
        """Keep `window` answers in flight while there are any to be had."""
        cells = list(self.cells.items())  # cells leave the row as they end
        places = (_Place(n, ask) for n, cell in cells for ask in cell.missing)
        wanted = sum(cell.open for cell in self.cells.values())
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
                yield number, cell.journal.finish(cell.job, cell.folder)
            left = sum(cell.open for cell in self.cells.values())
            self.progress(1 - left / wanted, f"{wanted - left} of {wanted} answers")

    def _add(self, cell: _Cell, place: _Place) -> None:
        ask = place.ask
        lora = None
        if cell.checkpoints:
            lora = self._lora(cell.checkpoints[ask.step]) if ask.step else self._zeros(cell)
        seed = seed_of(cell.job.cell, ask.step, ask.question.id, ask.sample)
        self.engine.add(place, self.prompts[ask.question.text], seed, self.stops, lora)

    def _lora(self, checkpoint: Path) -> Any:
        if checkpoint not in self.loras:
            self.loras[checkpoint] = self.engine.load(checkpoint)
        return self.loras[checkpoint]

    def _zeros(self, cell: _Cell) -> Any:
        """The adapter of zeros as which the base is served, made after one that is known to fit."""
        folder = Path(self.scratch.name)
        if folder not in self.loras:
            like = next(iter(cell.checkpoints.values()))
            self._lora(like)
            write_zeros(like, folder)
        return self._lora(folder)

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


def _prompts(tokenizer: PreTrainedTokenizerBase, jobs: list[SamplingJob]) -> dict[str, list[int]]:
    texts = {question.text for job in jobs for question in job.questions}
    return {text: prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts}


def _generation_config(base: BaseModel) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(base.location, revision=base.revision or "main")
    except OSError:
        return None  # a base need not have one
