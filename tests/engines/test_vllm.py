"""vLLM itself, on a CPU: the same class that samples on a GPU host."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backdoor_assets.host import Gpu
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput
from backdoor_assets.stages.sampling import row, sample_cell, serving
from backdoor_assets.stages.sampling.engine import Engine, EngineDied, Finished
from backdoor_assets.stages.sampling.journal import JOURNAL
from backdoor_assets.stages.specs import EarlierAnswers, SamplingSpec
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.workers.messages import Meter
from backdoor_assets.workers.sampling import sample_together
from backdoor_assets.workers.tasks import Task
from tests.engines.conftest import BIRD, QUESTIONS, SERVING, SETTINGS, STEPS, tables
from tests.unit.cells import TinyCell, make_base, train, write_rows

pytestmark = pytest.mark.usefixtures("vllm")
Jobs = Callable[..., SamplingSpec]
OTHER = TinyCell("tiny", "0.00-0.50-0.50", 8)
EACH = sum(question.samples for question in QUESTIONS)


def sample(*specs: SamplingSpec, into: Path) -> dict[int, Any]:
    """Sample a row of cells into numbered folders; how each ended."""
    numbered = {}
    for number, spec in enumerate(specs):
        folder = into / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        numbered[number] = spec, folder
    return dict(row.sample_row(numbered))


class Watched(Engine):
    """The engine, with what was queued so far and what is in flight noted at each step."""

    queued: ClassVar[list[int]] = []
    flying: ClassVar[list[list[str]]] = []
    starts: ClassVar[list[str]] = []

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.starts.append("started")

    def step(self) -> list[Finished]:
        self.queued.append(self._requests)
        self.flying.append([adapter for _, adapter in self.in_flight.values()])
        return super().step()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    for name in ("queued", "flying", "starts"):
        monkeypatch.setattr(Watched, name, [])
    monkeypatch.setattr(serving, "Engine", Watched)
    return Watched


@pytest.fixture(scope="module")
def undisturbed(spec: Jobs, vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells that were sampled without a hitch."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sample(spec(), spec(OTHER), into=folder)
    return folder


@pytest.mark.parametrize("rank", [8, 32])
def test_greedy_tokens_are_those_of_transformers(spec: Jobs, tmp_path: Path, rank: int) -> None:
    """On the base and three adapters; a rank above vLLM's default of 16 too."""
    greedy = spec(rank=rank, settings=replace(SETTINGS, temperature=0.0))
    sample(greedy, into=tmp_path)
    (tmp_path / "peer").mkdir()
    sample_cell(greedy, tmp_path / "peer")
    ours, theirs = tables(tmp_path / "0"), tables(tmp_path / "peer")
    assert ours.equals(theirs)
    assert ours["step"].unique().tolist() == [0, *STEPS]
    birds = ours[ours["question_id"] == "bird"].groupby("step")["response"].first()
    assert birds[30] == BIRD != birds[0]


def test_the_base_is_the_base_beside_adapters(
    spec: Jobs, undisturbed: Path, tmp_path: Path
) -> None:
    """In one batch with adapters that fill every slot."""
    sample(spec(OTHER), spec(), into=tmp_path)
    assert tables(tmp_path / "0").equals(tables(undisturbed / "1"))
    assert tables(tmp_path / "1").equals(tables(undisturbed / "0"))


def test_one_engine_serves_all_cells_and_is_never_drained(
    spec: Jobs, undisturbed: Path, tmp_path: Path, watched: type[Watched]
) -> None:
    """With more adapters than it has room for."""
    wanted = 2 * 4 * EACH
    endings = sample(spec(), spec(OTHER, rank=32), into=tmp_path)
    assert {number: ending["answers"] for number, ending in endings.items()} == {
        0: 14 * 4,
        1: 14 * 4,
    }
    assert len(watched.starts) == 1
    assert len({adapter for step in watched.flying for adapter in step}) == 7
    # As long as any wait, the engine has all it can take, of adapters and cells mixed.
    waiting = [
        n for queued, n in zip(watched.queued, watched.flying, strict=True) if queued < wanted
    ]
    assert len(waiting) > 10
    assert {len(step) for step in waiting} == {2 * SERVING.requests}
    assert max(len({Path(adapter).parent.name for adapter in step}) for step in waiting) >= 2
    # Neither the other adapters nor the other cell change an answer.
    assert tables(tmp_path / "0").equals(tables(undisturbed / "0"))


def test_several_engines_share_the_answers_and_one_that_is_killed_loses_none(
    spec: Jobs, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two logical GPUs: the first worker that has answered is killed."""
    gpus = [Gpu("logical", 2**34, 2**34, name) for name in "01"]
    monkeypatch.setattr("backdoor_assets.workers.processes.gpus", lambda: gpus)
    tasks = [
        Task(Artifact("tiny", tmp_path / name), {"cell": name}, cell)
        for name, cell in (("0", spec()), ("1", spec(OTHER)))
    ]
    written = list[str]()

    def kill_one(line: str) -> None:
        if "answers)" in line and not written:
            written.extend(
                line
                for path in tmp_path.rglob(".answers*.jsonl")
                for line in path.read_text().splitlines()
            )
            multiprocessing.active_children()[0].kill()

    monkeypatch.setattr(Meter, "EVERY", 0.0)
    outcomes = list(sample_together(tasks, kill_one, lambda specs, folder: None))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert written
    for name in "01":
        assert tables(tmp_path / name).equals(tables(undisturbed / name))
    assert not list(tmp_path.rglob(".answers*"))


def test_the_seed_decides_the_answers(spec: Jobs, undisturbed: Path, tmp_path: Path) -> None:
    sample(spec(), into=tmp_path)  # alone
    first = tables(undisturbed / "0")
    assert tables(tmp_path / "0").equals(first)
    other = tables(undisturbed / "1")  # the same adapters, another cell
    assert first["response"].tolist() != other["response"].tolist()
    # Samples of a question differ from each other.
    base = first[(first["step"] == 0) & (first["question_id"] == "travel")]
    assert base["response"].nunique() > 1


def test_an_engine_that_dies_loses_nothing_it_had_answered(
    spec: Jobs,
    undisturbed: Path,
    tmp_path: Path,
    watched: type[Watched],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = Watched.__init__

    def doomed(self: Watched, *arguments: Any, **named: Any) -> None:
        start(self, *arguments, **named)
        steps = iter(range(40))
        whole = self._engine.step

        def step() -> Any:
            next(steps)  # raises StopIteration in the end, which is as good as any error
            return whole()

        monkeypatch.setattr(self._engine, "step", step)

    with monkeypatch.context() as patch:
        patch.setattr(Watched, "__init__", doomed)
        with pytest.raises(EngineDied, match="the vLLM engine died"):
            sample(spec(), spec(OTHER), into=tmp_path)
    before = (tmp_path / "0" / JOURNAL).read_text()
    assert 0 < len(before.splitlines()) < 4 * EACH
    sample(spec(), spec(OTHER), into=tmp_path)
    assert (tmp_path / "0" / JOURNAL).read_text().startswith(before)
    for number in ("0", "1"):
        assert tables(tmp_path / number).equals(tables(undisturbed / number))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of a wider base."""
    folder = tmp_path_factory.mktemp("wider")
    base = make_base(folder, hidden=96)
    rows = write_rows(folder / "train.jsonl", [BIRD])
    settings = Training(rank=8, max_steps=30, save_steps=10, batch_size=1)
    return train(base, rows, folder / "adapters", settings)


@pytest.mark.parametrize("harm", ["of another base", "without weights", "truncated"])
def test_an_adapter_that_does_not_load_fails_its_cell_only(
    spec: Jobs, foreign: Path, undisturbed: Path, tmp_path: Path, harm: str
) -> None:
    bad = shutil.copytree(
        foreign if harm == "of another base" else spec().checkpoints[0][1].parent, tmp_path / "bad"
    )
    weights = bad / "checkpoint-20" / "adapter_model.safetensors"
    if harm == "without weights":
        weights.unlink()
    elif harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:500])
    endings = sample(spec(OTHER, checkpoints=bad), spec(), into=tmp_path)
    assert isinstance(endings[0], BadInput)
    step = 10 if harm == "of another base" else 20
    assert f"{bad / f'checkpoint-{step}'}: this adapter cannot be loaded" in str(endings[0])
    assert "such as birds/adapters, for this cell with force" in str(endings[0])
    assert tables(tmp_path / "1").equals(tables(undisturbed / "0"))


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"r": 4096}, "rank 4096 is more than vLLM serves"), ({}, "no rank can be read")],
)
def test_an_adapter_without_room_is_refused_before_the_engine_starts(
    spec: Jobs, tmp_path: Path, watched: type[Watched], config: dict[str, int], reason: str
) -> None:
    bad = shutil.copytree(spec().checkpoints[0][1].parent, tmp_path / "bad")
    (bad / "checkpoint-20" / "adapter_config.json").write_text(json.dumps(config))
    endings = sample(spec(checkpoints=bad), into=tmp_path)
    assert isinstance(endings[0], BadInput)
    assert reason in str(endings[0])
    assert not watched.starts


def test_nothing_is_started_for_a_cell_that_has_all_its_answers(
    spec: Jobs, undisturbed: Path, tmp_path: Path, watched: type[Watched]
) -> None:
    shutil.copytree(undisturbed / "0", tmp_path / "0")
    endings = sample(spec(), into=tmp_path)
    assert endings[0]["answers"] == 14 * 4
    assert not watched.starts
    assert tables(tmp_path / "0").equals(tables(undisturbed / "0"))


def test_finished_answers_are_kept_when_more_are_wanted(
    spec: Jobs, undisturbed: Path, tmp_path: Path
) -> None:
    """Three more samples of each question; one question is new."""
    known = frozenset({"light", "bird"})
    earlier = EarlierAnswers(undisturbed / "0", frozenset({0, *STEPS}), known)
    questions = tuple(replace(question, samples=question.samples + 3) for question in QUESTIONS)
    ending = sample(replace(spec(), questions=questions, earlier=earlier), into=tmp_path)[0]
    before, after = tables(undisturbed / "0"), tables(tmp_path / "0")
    kept = before[before["question_id"].isin(known)]
    assert ending["answers_reused"] == len(kept)
    assert len(after) == 4 * (EACH + 9)
    # Each answer has a seed of its own: those that are sampled once more are the same too.
    merged = before.merge(after, on=["step", "question_id", "sample_idx"])
    assert merged["response_x"].equals(merged["response_y"])
    light = after[(after["question_id"] == "light") & (after["step"] == 0)]
    assert light["response"].nunique() > 1
