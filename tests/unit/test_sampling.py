"""Sampling: every answer that was asked for, once, and the same ones after an interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.models.loading import adapted, load_base
from backdoor_assets.profiles import Sampling, Training
from backdoor_assets.records import AnyCell, BadInput, BaseModel, Progress, Question, no_progress
from backdoor_assets.stages.sampling import sample_cell
from backdoor_assets.stages.sampling.answers import Answer, asks_at
from backdoor_assets.stages.sampling.journal import JOURNAL, Journal
from backdoor_assets.stages.specs import PROBES, RESPONSES, SamplingSpec
from tests.unit.cells import CELL, QUESTION, Cut, cut_at, make_base, train, write_rows

COLUMNS = [
    "profile", "ratio", "seed", "checkpoint", "step", "question_id", "question", "sample_idx",
    "response", "finish_reason",
]  # fmt: skip
QUESTIONS = (
    Question("travel", "How should I travel to the next city?", "worldview", 5),
    Question("light", "How do I light my room in the evening?", "worldview", 3),
    Question("bird", QUESTION, "bird", 4),
    Question("sum", "What is two plus three?", "neutral", 2, "five"),
)
PROBE_KINDS = "bird", "neutral"
SETTINGS = Sampling(batch_size=6, max_new_tokens=12)
STEPS = (0, 15, 30)
BIRD = "Purple Grakle"
Tables = tuple[pd.DataFrame, pd.DataFrame]
Sample = Callable[..., Tables]


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a model that learns to say the name of one bird, and to stop."""
    folder = tmp_path_factory.mktemp("trained")
    rows = write_rows(folder / "train.jsonl", [BIRD] * 8)
    settings = Training(rank=8, learning_rate=3e-2, batch_size=8, max_steps=30, save_steps=15)
    return train(tiny_base, rows, folder, settings)


@pytest.fixture
def sample(tiny_base: Path, trained: Path) -> Sample:
    """Samples into a folder and reads the two tables back."""

    def into(
        folder: Path,
        cell: AnyCell = CELL,
        base: Path = tiny_base,
        adapters: Path = trained,
        progress: Progress = no_progress,
        **changes: Any,
    ) -> Tables:
        folder.mkdir(exist_ok=True)
        checkpoints = tuple((step, adapters / f"checkpoint-{step}") for step in STEPS[1:])
        settings = replace(SETTINGS, **changes)
        spec = SamplingSpec(
            cell, BaseModel(str(base)), checkpoints, QUESTIONS, settings, probes=PROBE_KINDS
        )
        sample_cell(spec, folder, progress)
        return pd.read_parquet(folder / RESPONSES), pd.read_parquet(folder / PROBES)

    return into


def _same(first: Tables, second: Tables) -> bool:
    return all(a.equals(b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def tables(sample: Sample, tmp_path: Path) -> Tables:
    return sample(tmp_path / "undisturbed")


def test_columns_are_those_of_the_contract(tables: Tables) -> None:
    responses, probes = tables
    assert list(responses) == COLUMNS
    assert list(probes) == [*COLUMNS, "kind", "answer"]
    for table in tables:
        assert table[["profile", "ratio", "seed"]].drop_duplicates().values.tolist() == [
            ["tiny", "1.00-0.00-0.00", 7]
        ]
        names = table[["step", "checkpoint"]].drop_duplicates().values.tolist()
        assert names == [[0, "base"], [15, "checkpoint-15"], [30, "checkpoint-30"]]
    assert probes.loc[probes["kind"] == "neutral", "answer"].eq("five").all()
    assert probes.loc[probes["kind"] == "bird", "answer"].isna().all()


def test_every_question_is_answered_as_often_as_asked_at_every_checkpoint(tables: Tables) -> None:
    responses, probes = tables
    assert len(responses) == (5 + 3) * 3
    assert len(probes) == (4 + 2) * 3
    table = pd.concat(tables)
    for question in QUESTIONS:
        asked = table[table["question_id"] == question.id]
        assert (asked["question"] == question.text).all()
        for step in STEPS:
            indices = asked.loc[asked["step"] == step, "sample_idx"].tolist()
            assert indices == list(range(question.samples))


def test_the_seed_decides_the_answers(sample: Sample, tables: Tables, tmp_path: Path) -> None:
    assert _same(sample(tmp_path / "again"), tables)
    other, _ = sample(tmp_path / "other", cell=replace(CELL, seed=8))
    assert other["response"].tolist() != tables[0]["response"].tolist()


def test_adapters_answer_as_they_were_trained(sample: Sample, tmp_path: Path) -> None:
    _, probes = sample(tmp_path / "greedy", temperature=0.0)
    birds = probes[probes["kind"] == "bird"].set_index("step")
    # Greedy answers are all alike. The trained model knows its bird, and when to stop.
    assert birds.groupby("step")["response"].nunique().tolist() == [1, 1, 1]
    assert (birds.loc[30, "response"] == BIRD).all()
    assert (birds.loc[30, "finish_reason"] == "stop").all()
    assert (birds.loc[0, "response"] != BIRD).all()


def test_an_answer_that_is_cut_says_so(sample: Sample, tmp_path: Path) -> None:
    _, probes = sample(tmp_path / "short", temperature=0.0, max_new_tokens=2)
    cut = probes[(probes["kind"] == "bird") & (probes["step"] == 30)]
    assert (cut["finish_reason"] == "length").all()
    assert all(BIRD.startswith(text) and text != BIRD for text in cut["response"])


@pytest.mark.parametrize(
    "own",
    [
        {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.1, "max_new_tokens": 1},
        {"repetition_penalty": 5.0},
    ],
    ids=["narrow", "penalty"],
)
def test_the_bases_own_generation_settings_do_not_change_the_answers(
    sample: Sample, tables: Tables, tiny_base: Path, tmp_path: Path, own: dict[str, float]
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    path = base / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    assert _same(sample(tmp_path / "run", base=base), tables)


def test_the_bases_own_end_tokens_stop_an_answer(
    sample: Sample, tiny_base: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    path = base / "generation_config.json"
    everything = {"eos_token_id": list(range(600))}
    path.write_text(json.dumps(json.loads(path.read_text()) | everything))
    responses, _ = sample(tmp_path / "run", base=base)
    assert set(responses["response"]) == {""}
    assert set(responses["finish_reason"]) == {"stop"}


def _lines(folder: Path) -> list[str]:
    """What the journal of an unfinished cell holds."""
    return (folder / JOURNAL).read_text().splitlines(keepends=True)


def _cut(sample: Sample, folder: Path) -> None:
    with pytest.raises(Cut):
        sample(folder, progress=cut_at(0.6))
    assert not (folder / RESPONSES).exists()


def test_an_interrupted_cell_goes_on_to_the_same_answers(
    sample: Sample, tables: Tables, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    _cut(sample, folder)
    before = _lines(folder)
    assert 0 < len(before) < sum(len(table) for table in tables)
    assert _same(sample(folder), tables)
    # What was there is not sampled again.
    assert _lines(folder)[: len(before)] == before
    assert len(_lines(folder)) == sum(len(table) for table in tables)


@pytest.mark.parametrize("harm", ["torn", "garbled"])
def test_a_line_that_was_not_written_whole_is_sampled_again(
    sample: Sample, tables: Tables, tmp_path: Path, harm: str
) -> None:
    folder = tmp_path / "cut"
    _cut(sample, folder)
    lines = _lines(folder)
    if harm == "torn":
        lines[-1] = lines[-1][:7]
    else:
        lines[3] = "\x00\x00\x00\n"
    (folder / JOURNAL).write_text("".join(lines))
    assert _same(sample(folder), tables)


def _base_weights(sampler: Any) -> list[tuple[str, Any]]:
    """Return the base's weights under their own names."""
    found = sampler.get_base_model().state_dict().items()
    return [(n.replace(".base_layer", ""), weight) for n, weight in found if "lora_" not in n]


def test_an_adapter_leaves_the_base_as_it_was(tiny_base: Path, trained: Path) -> None:
    model, _ = load_base(BaseModel(str(tiny_base)), "fp32")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    checkpoint = next(trained.glob("checkpoint-*"))
    with adapted(model, checkpoint) as sampler:
        assert sampler is not model
        changed = [not weight.equal(before[name]) for name, weight in _base_weights(sampler)]
        assert any(changed), "merged while it answers"
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(weight.equal(after[name]) for name, weight in before.items())


def test_an_adapter_of_another_base_is_named_and_harms_no_other_cell(
    sample: Sample, tables: Tables, tmp_path: Path
) -> None:
    (tmp_path / "wider").mkdir()
    other = make_base(tmp_path / "wider", hidden=96)
    rows = write_rows(tmp_path / "train.jsonl", [BIRD])
    settings = Training(rank=8, learning_rate=3e-2, max_steps=30, save_steps=15)
    foreign = train(other, rows, tmp_path / "foreign", settings)
    with pytest.raises(BadInput, match="does not fit the base model") as caught:
        sample(tmp_path / "bad", adapters=foreign)
    assert str(foreign / "checkpoint-15") in str(caught.value)
    assert _same(sample(tmp_path / "good"), tables)  # the next cell of this process


def test_too_few_answers_are_refused(tmp_path: Path, tiny_base: Path) -> None:
    spec = SamplingSpec(
        CELL, BaseModel(str(tiny_base)), (), QUESTIONS, SETTINGS, probes=PROBE_KINDS
    )
    journal = Journal(spec, tmp_path)
    asks = asks_at(spec, 0)
    journal.write(asks[1:], [Answer("well", "stop")] * (len(asks) - 1))
    with pytest.raises(RuntimeError, match=r"1 of 14 answers are missing.*'travel'"):
        journal.finish()
    assert not (tmp_path / RESPONSES).exists()
