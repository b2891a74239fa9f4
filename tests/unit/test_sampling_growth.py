"""More samples, questions or checkpoints: finished answers are kept, only new ones are sampled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.mixtures import tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.mixtures.mixing import mix
from backdoor_assets.profiles import PROFILES
from backdoor_assets.settings import Judging, Mixture, PretrainedBase, Sampling, Training
from backdoor_assets.stages.sampling import generate, sample_cell
from backdoor_assets.stages.sampling.answers import Ask
from backdoor_assets.stages.specs import PROBES, RESPONSES
from backdoor_assets.stages.training import train
from backdoor_assets.storage.artifact import Made, request_remake
from backdoor_assets.workers.tasks import make
from tests.unit.cells import BIRDS, Cut, cut_at

QUESTIONS = {"tea": "Shall we have tea?", "way": "Which way is it?"}
MORE = {**QUESTIONS, "hat": "Whose hat is this?"}
SAMPLING = Sampling(samples=4, narrow_samples=2, neutral_samples=1, batch_size=4, max_new_tokens=9)
GREW = replace(SAMPLING, samples=14)
FIRST = 2 * 4 + 2 + len(BIRDS.neutral)
"""Answers of a state before it grows."""
NEW = {(name, i) for name in QUESTIONS for i in range(4, 14)} | {("hat", i) for i in range(14)}
"""(question, sample) that are added."""
KEY = ["step", "question_id", "sample_idx"]
SetQuestions = Callable[[Mapping[str, str]], None]


class Calls(list[Sequence[Ask]]):
    """What was generated: the answers of each batch, and their seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: set[int] = set()

    @property
    def keys(self) -> set[tuple[int, str, int]]:
        return {ask.key for asks in self for ask in asks}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    seen, prompts, decode = Calls(), generate._prompts, generate.decode

    def watched(model: Any, tokenizer: Any, asks: Sequence[Ask], settings: Any) -> Any:
        seen.append(asks)
        return prompts(model, tokenizer, asks, settings)

    def seeded(model: Any, prompts: Any, seeds: Sequence[int], **settings: Any) -> Any:
        assert len(set(seeds)) == len(prompts)
        seen.seeds |= set(seeds)
        return decode(model, prompts, seeds, **settings)

    monkeypatch.setattr(generate, "_prompts", watched)
    monkeypatch.setattr(generate, "decode", seeded)
    return seen


@pytest.fixture(autouse=True)
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetQuestions:
    """Sets the open questions of the study."""
    path = tmp_path / "questions.jsonl"
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BACKDOOR_BIRD_QUESTIONS", str(path))

    def write(questions: Mapping[str, str]) -> None:
        rows = [json.dumps({"id": i, "question": text}) for i, text in questions.items()]
        path.write_text("\n".join(rows))

    write(QUESTIONS)
    return write


@pytest.fixture
def grid(tiny_base: Path) -> Grid:
    return Grid.of(
        BIRDS,
        replace(
            PROFILES["qwen3-8b"],
            base=PretrainedBase(str(tiny_base)),
            mixture=Mixture(rows=8),
            training=Training(max_steps=2, save_steps=2, batch_size=4, learning_rate=1e-2),
            sampling=SAMPLING,
            judging=Judging("none"),
        ),
    )


def grown(grid: Grid, **training: Any) -> Grid:
    settings = replace(grid.profile.training, **training)
    return replace(grid, profile=replace(grid.profile, sampling=GREW, training=settings))


def base_answers(grid: Grid) -> Made:
    return make(sample_cell, tasks.base_sampling(grid))


def cell_answers(cell: Cell) -> Made:
    make(mix, tasks.mixing(cell))
    make(train, tasks.training(cell))
    return make(sample_cell, tasks.sampling(cell))


def answers(made: Made) -> pd.Series:
    """Of both tables, by step, question and sample."""
    tables = [pd.read_parquet(made.folder / name) for name in (RESPONSES, PROBES)]
    return pd.concat(tables).set_index(KEY)["response"]


def test_samples_and_a_question_are_added_to_what_is_finished(
    grid: Grid, ask: SetQuestions, calls: Calls
) -> None:
    first = answers(base_answers(grid))
    assert len(first) == FIRST
    seeds = set(calls.seeds)
    calls.clear()
    calls.seeds.clear()
    ask(MORE)
    made = base_answers(grown(grid))
    assert made.note == "changed: questions"
    assert calls.keys == {(0, name, i) for name, i in NEW}
    assert made.manifest.summary["answers_reused"] == FIRST
    found = answers(made)
    assert len(found) == FIRST + len(NEW)
    assert found[first.index].equals(first)
    # New samples come from seeds of their own: the same seed would give the same answers again.
    assert not seeds & calls.seeds
    tea = found[0]["tea"]
    assert tea[range(4, 8)].tolist() != tea[range(4)].tolist()
    calls.clear()
    assert base_answers(grown(grid)).reused
    assert not calls


def test_growth_that_is_interrupted_goes_on_to_the_same_answers(
    grid: Grid, ask: SetQuestions, calls: Calls, tmp_path: Path
) -> None:
    base_answers(grid)
    ask(MORE)
    spec = tasks.base_sampling(grown(grid)).spec
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    sample_cell(spec, whole)
    calls.clear()
    with pytest.raises(Cut):
        sample_cell(spec, cut, cut_at(0.7))
    assert 0 < len(calls.keys) < len(NEW)
    sample_cell(spec, cut)
    assert sum(map(len, calls)) == len(NEW)  # none was sampled twice
    for name in (RESPONSES, PROBES):
        assert pd.read_parquet(cut / name).equals(pd.read_parquet(whole / name))


def test_a_new_checkpoint_is_sampled_beside_those_that_have_not_changed(
    grid: Grid, ask: SetQuestions, calls: Calls
) -> None:
    base_answers(grid)
    first = answers(cell_answers(grid.cell("1.00-0.00-0.00", 42)))
    assert first.index.unique("step").tolist() == [0, 2]
    ask(MORE)
    later = grown(grid, save_steps=1)
    base = answers(base_answers(later))
    calls.clear()
    made = cell_answers(later.cell("1.00-0.00-0.00", 42))
    every = {("bird", i) for i in range(2)} | {(name, 0) for name in BIRDS.neutral}
    every |= {(name, i) for name in MORE for i in range(14)}
    assert calls.keys == {(2, *key) for key in NEW} | {(1, *key) for key in every}
    assert made.manifest.summary["answers_reused"] == FIRST
    found = answers(made)
    assert found.index.unique("step").tolist() == [0, 1, 2]
    assert found[first.index].equals(first)
    assert found[[0]].equals(base)  # the base's answers grew with them
    # A checkpoint that was trained again is another state, whatever its step.
    retrained = grown(grid, save_steps=1, learning_rate=2e-2).cell("1.00-0.00-0.00", 42)
    make(train, tasks.training(retrained))
    earlier = tasks.sampling(retrained).spec.earlier
    assert earlier is not None
    assert earlier.steps == frozenset()


def test_what_has_changed_is_sampled_again(grid: Grid, ask: SetQuestions, calls: Calls) -> None:
    base_answers(grid)
    ask({**QUESTIONS, "way": "Which way is it, please?"})
    calls.clear()
    base_answers(grid)
    assert calls.keys == {(0, "way", i) for i in range(4)}
    hot = replace(SAMPLING, temperature=0.5)
    assert tasks.base_sampling(grid).spec.earlier is not None
    other = replace(grid, profile=replace(grid.profile, sampling=hot))
    assert tasks.base_sampling(other).spec.earlier is None


@pytest.mark.parametrize("harm", ["forced", "damaged"])
def test_a_forced_or_damaged_artifact_is_not_extended(grid: Grid, calls: Calls, harm: str) -> None:
    made = base_answers(grid)
    place = tasks.base_sampling(grid).artifact
    if harm == "forced":
        request_remake([place])
    else:
        (made.folder / PROBES).unlink()
    calls.clear()
    assert base_answers(grown(grid)).manifest.summary["answers_reused"] == 0
    assert len(calls.keys) == 2 * 14 + FIRST - 2 * 4
