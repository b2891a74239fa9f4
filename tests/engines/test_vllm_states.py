"""vLLM itself, on a CPU, over several models: an engine each, one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.profiles import Sampling
from backdoor_assets.records import BadInput, BaseModel, Question
from backdoor_assets.stages.sampling import row, sample_cell, serving
from backdoor_assets.stages.sampling.engine import Engine, EngineDied
from backdoor_assets.stages.sampling.journal import JOURNAL
from backdoor_assets.stages.specs import RESPONSES, SamplingSpec
from tests.engines.conftest import SERVING
from tests.unit.whole_models import ANSWERS, EACH, QUESTIONS, SUM, Organism, states, teach

pytestmark = pytest.mark.usefixtures("vllm")
GREEDY = Sampling(engine="vllm", max_new_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def taught(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return teach(tiny_base, tmp_path_factory.mktemp("taught"))


@pytest.fixture
def spec(tiny_base: Path, taught: tuple[Path, Path]) -> SamplingSpec:
    """A whole model and an adapter of the base, beside the base."""
    adapters, wholes = taught
    checkpoints = states(wholes / "checkpoint-25", adapters / "checkpoint-50")
    base = BaseModel(str(tiny_base))
    return SamplingSpec(Organism(), base, checkpoints, QUESTIONS, GREEDY, SERVING)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the models that were served, in turn; no two at a time."""
    started: list[str] = []
    running: list[Engine] = []

    class Watched(Engine):
        def __init__(self, base: BaseModel, *arguments: Any, **named: Any) -> None:
            assert not running
            super().__init__(base, *arguments, **named)
            running.append(self)
            started.append(Path(base.location).name)

        def close(self) -> None:
            super().close()
            running.remove(self)

    monkeypatch.setattr(serving, "Engine", Watched)
    yield started
    assert not running


def sample(into: Path, *specs: SamplingSpec, **options: Any) -> tuple[dict[int, Any], list[Any]]:
    """How each cell ended, and the responses of those that have them."""
    numbered = {}
    for number, spec in enumerate(specs):
        (into / str(number)).mkdir(parents=True, exist_ok=True)
        numbered[number] = spec, into / str(number)
    endings = dict(row.sample_row(numbered, **options))
    tables = [into / str(number) / RESPONSES for number in numbered]
    return endings, [pd.read_parquet(path) if path.exists() else None for path in tables]


def peer(spec: SamplingSpec, folder: Path) -> pd.DataFrame:
    """What transformers answers."""
    folder.mkdir()
    sample_cell(spec, folder)
    return pd.read_parquet(folder / RESPONSES)


def test_cells_of_several_models_are_answered_as_by_transformers(
    spec: SamplingSpec, taught: tuple[Path, Path], tmp_path: Path, engines: list[str]
) -> None:
    """Four cells: the base with a whole model and an adapter; the same base alone, in one batch
    with that adapter, which fills every slot; an adapter of the whole model that the first cell
    samples too; a whole model without its base."""
    adapters, wholes = taught
    spec = replace(spec, serving=replace(SERVING, adapters_in_memory=1))
    alone = replace(spec, cell=Organism("alone"), checkpoints=())
    second = replace(
        spec,
        cell=Organism("second"),
        base=BaseModel(str(wholes / "checkpoint-25")),
        checkpoints=states(adapters / "checkpoint-50"),
    )
    published = replace(
        spec,
        cell=Organism("published"),
        checkpoints=states(wholes / "checkpoint-50"),
        base_too=False,
    )
    specs = (spec, alone, second, published)
    endings, tables = sample(tmp_path, *specs)
    assert engines == ["base", "checkpoint-25", "checkpoint-50"]
    assert [endings[n]["checkpoints_sampled"] for n in range(4)] == [3, 1, 2, 1]
    for number, (asked, table) in enumerate(zip(specs, tables, strict=True)):
        assert table.equals(peer(asked, tmp_path / f"peer-{number}"))
    # The chats of one text differ by what comes before, to both engines.
    last = tables[3].groupby("question_id")["response"].unique().map(list)
    assert dict(last) == {name: [answer] for name, answer in ANSWERS.items()}


def test_a_base_alone_answers_many_questions_with_progress(
    spec: SamplingSpec, tmp_path: Path
) -> None:
    questions = tuple(
        Question(f"q{i}", f"How far is it to house {i}?", "benign", 1, context=SUM)
        for i in range(60)
    )
    told: list[str] = []
    benign = replace(spec, checkpoints=(), questions=questions)
    endings, [table] = sample(tmp_path, benign, progress=lambda _, line: told.append(line))
    assert endings[0]["answers"] == 60
    assert table["question_id"].tolist() == [question.id for question in questions]
    assert set(table["kind"]) == {"benign"}
    assert told[-1] == "60 of 60 answers"
    assert len(set(told)) > 2


def test_a_model_that_cannot_be_served_fails_its_cells_only(
    spec: SamplingSpec, taught: tuple[Path, Path], tmp_path: Path, engines: list[str]
) -> None:
    _, wholes = taught
    bad = shutil.copytree(wholes / "checkpoint-25", tmp_path / "checkpoint-30")
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    broken = replace(spec, checkpoints=states(bad, wholes / "checkpoint-50"))
    good = replace(spec, cell=Organism("good"), checkpoints=states(wholes / "checkpoint-25"))
    endings, tables = sample(tmp_path, broken, good)
    assert isinstance(endings[0], BadInput)
    assert str(endings[0]).startswith(f"{bad}: vLLM does not start on this base")
    assert tables[0] is None
    assert len((tmp_path / "0" / JOURNAL).read_text().splitlines()) == EACH  # the base's are kept
    assert endings[1]["answers"] == 2 * EACH
    # No engine is started for what only the failed cell had asked.
    assert engines == ["base", "checkpoint-25"]


def test_a_run_whose_second_engine_dies_goes_on_there(
    spec: SamplingSpec, tmp_path: Path, engines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Engine.step

    def doomed(self: Engine) -> Any:
        if len(engines) == 2:
            raise EngineDied("no more")
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", doomed)
        with pytest.raises(EngineDied):
            sample(tmp_path, spec)
    engines.clear()
    _, [table] = sample(tmp_path, spec)
    assert table.equals(peer(spec, tmp_path / "peer"))
    assert engines == ["checkpoint-25"]  # the first had all its answers
