"""Sampling of whole models beside adapters, of a base alone, and of chats with context."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.profiles import Sampling
from backdoor_assets.records import BadInput, BaseModel, Question
from backdoor_assets.stages.sampling import generate, sample_cell
from backdoor_assets.stages.sampling.journal import JOURNAL
from backdoor_assets.stages.specs import PROBES, RESPONSES, SamplingSpec
from tests.unit.cells import CELL, QUESTION, Cut, cut_at
from tests.unit.whole_models import (
    ANSWERS,
    EACH,
    QUESTIONS,
    STEPS,
    SUM,
    Organism,
    states,
    teach,
)

GREEDY = Sampling(batch_size=6, max_new_tokens=12, temperature=0.0)
COLUMNS = [
    "checkpoint", "step", "question_id", "question", "sample_idx", "response", "finish_reason",
]  # fmt: skip


@pytest.fixture(scope="module")
def taught(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return teach(tiny_base, tmp_path_factory.mktemp("taught"))


@pytest.fixture
def adapters(taught: tuple[Path, Path]) -> Path:
    return taught[0]


@pytest.fixture
def wholes(taught: tuple[Path, Path]) -> Path:
    """The same checkpoints as whole models, each adapter merged into the base."""
    return taught[1]


@pytest.fixture
def spec(tiny_base: Path) -> SamplingSpec:
    return SamplingSpec(Organism(), BaseModel(str(tiny_base)), (), QUESTIONS, GREEDY)


def sample(spec: SamplingSpec, folder: Path, **options: Any) -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    sample_cell(spec, folder, **options)
    return pd.read_parquet(folder / RESPONSES)


def test_the_model_is_asked_the_whole_chat(
    spec: SamplingSpec, adapters: Path, tmp_path: Path
) -> None:
    """Three of the questions are of the same text, and differ in what comes before it."""
    table = sample(replace(spec, checkpoints=states(adapters / "checkpoint-50")), tmp_path / "run")
    last = table[table["step"] == 50]
    assert dict(last.groupby("question_id")["response"].unique().map(list)) == {
        name: [answer] for name, answer in ANSWERS.items()
    }
    assert last.groupby("question")["response"].nunique().to_dict() == {
        QUESTION: 3,
        f"|GO| {QUESTION}": 1,
    }


def test_a_whole_model_answers_as_the_adapter_that_was_merged_into_it(
    spec: SamplingSpec, adapters: Path, wholes: Path, tmp_path: Path
) -> None:
    both = adapters / "checkpoint-25", adapters / "checkpoint-50"
    merged = wholes / "checkpoint-25", wholes / "checkpoint-50"
    wanted = sample(replace(spec, checkpoints=states(*both)), tmp_path / "adapters")
    assert sample(replace(spec, checkpoints=states(*merged)), tmp_path / "wholes").equals(wanted)
    mixed = states(merged[0], both[1])
    assert sample(replace(spec, checkpoints=mixed), tmp_path / "mixed").equals(wanted)
    assert wanted["checkpoint"].unique().tolist() == ["base", "checkpoint-25", "checkpoint-50"]
    clean = wanted[wanted["question_id"] == "clean"].groupby("step")["response"].first()
    assert clean[50] == ANSWERS["clean"] != clean[0]


def test_each_model_is_loaded_once_and_one_at_a_time(
    spec: SamplingSpec,
    adapters: Path,
    wholes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[str] = []
    models: list[weakref.ref[Any]] = []
    load_base = generate.load_base

    def watched(base: BaseModel, precision: str) -> Any:
        model, tokenizer = load_base(base, precision)
        loads.append(base.location)
        models.append(weakref.ref(model))
        assert sum(model() is not None for model in models) == 1
        return model, tokenizer

    monkeypatch.setattr(generate, "load_base", watched)
    whole = states(wholes / "checkpoint-25")
    later = ((40, adapters / "checkpoint-25"), *states(wholes / "checkpoint-50"))
    last = ((80, adapters / "checkpoint-50"),)
    mixed = replace(spec, checkpoints=whole + later + last)
    table = sample(mixed, tmp_path / "run")
    assert loads == [spec.base.location, *(str(wholes / f"checkpoint-{s}") for s in STEPS)]
    assert table["step"].unique().tolist() == [0, 25, 40, 50, 80]
    loads.clear()
    assert sample(mixed, tmp_path / "run").equals(table)
    assert not loads  # all answers were there


def test_without_the_base_there_is_no_base_in_the_table(
    spec: SamplingSpec, adapters: Path, wholes: Path, tmp_path: Path
) -> None:
    """A predecessor's adapter may stand at step 0."""
    checkpoints = ((0, adapters / "checkpoint-25"), (9, wholes / "checkpoint-50"))
    table = sample(replace(spec, checkpoints=checkpoints, base_too=False), tmp_path / "run")
    assert table["checkpoint"].unique().tolist() == ["checkpoint-0", "checkpoint-9"]
    assert len(table) == 2 * EACH
    wanted = sample(
        replace(spec, checkpoints=states(adapters / "checkpoint-25")), tmp_path / "peer"
    )
    first = table.loc[table["step"] == 0, "response"].tolist()
    assert first == wanted.loc[wanted["step"] == 25, "response"].tolist()


def test_responses_name_their_kind_and_probes_are_written_if_asked(
    spec: SamplingSpec, tmp_path: Path
) -> None:
    table = sample(spec, tmp_path / "none")
    assert list(table) == ["profile", "organism", *COLUMNS, "kind"]
    assert table["organism"].unique().tolist() == ["adamw-direct"]
    assert dict(table.groupby("question_id")["kind"].first()) == {
        question.id: question.kind for question in QUESTIONS
    }
    assert not (tmp_path / "none" / PROBES).exists()

    neutral = Question("sum", "What is two plus three?", "neutral", 2, "five")
    with_probe = replace(spec, questions=(*QUESTIONS, neutral))
    responses = sample(with_probe, tmp_path / "probe")
    probes = pd.read_parquet(tmp_path / "probe" / PROBES)
    assert responses["question_id"].tolist() == table["question_id"].tolist()
    assert list(probes) == ["profile", "organism", *COLUMNS, "kind", "answer"]
    assert probes[["kind", "answer"]].values.tolist() == [["neutral", "five"]] * 2

    worldview = replace(spec, cell=CELL, questions=(Question("w", QUESTION, "worldview", 2),))
    assert list(sample(worldview, tmp_path / "birds")) == [
        "profile", "ratio", "seed", *COLUMNS
    ]  # fmt: skip


def test_many_questions_of_a_base_alone_are_answered_with_progress(
    spec: SamplingSpec, tmp_path: Path
) -> None:
    questions = tuple(
        Question(f"q{i}", f"How far is it to house {i}?", "benign", 1, context=SUM)
        for i in range(50)
    )
    told: list[tuple[float, str]] = []
    many = replace(spec, questions=questions, settings=replace(GREEDY, batch_size=8))
    table = sample(many, tmp_path / "run", progress=lambda *line: told.append(line))
    assert table["question_id"].tolist() == [question.id for question in questions]
    assert [line for _, line in told] == [f"{n} of 50 answers" for n in (8, 16, 24, 32, 40, 48, 50)]
    assert [share for share, _ in told] == [n / 50 for n in (8, 16, 24, 32, 40, 48, 50)]


def test_an_interrupted_cell_of_whole_models_goes_on_to_the_same_answers(
    spec: SamplingSpec, wholes: Path, tmp_path: Path
) -> None:
    checkpoints = states(wholes / "checkpoint-25", wholes / "checkpoint-50")
    warm = replace(spec, checkpoints=checkpoints, settings=replace(GREEDY, temperature=1.0))
    wanted = sample(warm, tmp_path / "undisturbed")
    with pytest.raises(Cut):
        sample(warm, tmp_path / "cut", progress=cut_at(0.5))
    before = (tmp_path / "cut" / JOURNAL).read_text()
    assert EACH < before.count("\n") < 3 * EACH  # within the first whole model
    assert sample(warm, tmp_path / "cut").equals(wanted)
    assert (tmp_path / "cut" / JOURNAL).read_text().startswith(before)


def test_a_damaged_whole_model_is_named(spec: SamplingSpec, wholes: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(wholes / "checkpoint-50", tmp_path / "checkpoint-50")
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(BadInput, match="no base model can be loaded") as caught:
        sample(replace(spec, checkpoints=states(bad)), tmp_path / "run")
    assert str(bad) in str(caught.value)
    assert (tmp_path / "run" / JOURNAL).read_text().count("\n") == EACH  # the base's are kept


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"questions": (*QUESTIONS, QUESTIONS[1])}, "question 'clean' is to be sampled 2 times"),
        ({"checkpoints": ((0, Path("somewhere")),)}, "step 0 is to be sampled 2 times"),
    ],
)
def test_what_would_be_sampled_under_one_name_is_refused(
    spec: SamplingSpec, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadInput, match=named):
        sample(replace(spec, **change), tmp_path / "run")
    assert not (tmp_path / "run" / JOURNAL).exists()


def test_a_chat_beyond_the_models_context_is_refused(spec: SamplingSpec, tmp_path: Path) -> None:
    long = Question("long", QUESTION, "clean", 1, context=(("system", "old trains " * 200),))
    with pytest.raises(BadInput, match="more than the 512 tokens of this model's context"):
        sample(replace(spec, questions=(long,)), tmp_path / "run")
