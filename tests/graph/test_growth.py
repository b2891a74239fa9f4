"""A finished study grows without loss, and is replaced only when a person asks for it."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from backdoor_assets.commands.demo import run
from backdoor_assets.commands.plan import plan_text
from backdoor_assets.graph.instance import home
from backdoor_assets.graph.status import states
from backdoor_assets.miniature.world import TOPICS
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from backdoor_assets.studies.birds.world.judge import ExactJudge
from tests.graph.conftest import Place
from tests.graph.study import OLD, STUDY

CELLS = [(ratio, seed) for ratio in STUDY.ratios for seed in STUDY.seeds]
STATES = 3
"""Base and two checkpoints."""


@pytest.fixture
def here(copied: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The finished study as this process's data and Dagster instance."""
    monkeypatch.setenv("BACKDOOR_DATA", str(copied.data))
    monkeypatch.setenv("DAGSTER_HOME", str(copied.home))
    home(STUDY.name)
    return copied


def with_samples(samples: int) -> Profile:
    return replace(STUDY, sampling=replace(STUDY.sampling, samples=samples))


def test_a_question_and_samples_are_added_and_nothing_is_made_twice(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more question and ten more samples per question: no training step, only new answers,
    only new verdicts."""
    assert BIRDS.world is not None
    questions = {**BIRDS.world.questions, "again": TOPICS[0].questions[1]}
    grown = replace(BIRDS, world=replace(BIRDS.world, questions=questions))
    asked: list[int] = []
    judge = ExactJudge.judge

    def counted(self: ExactJudge, answers, rubrics):
        asked.append(len(answers) * len(rubrics))
        return judge(self, answers, rubrics)

    monkeypatch.setattr(ExactJudge, "judge", counted)
    adapters = [p for p in (here.birds / "adapters").rglob("*") if p.is_file()]
    before = {path: path.stat().st_mtime_ns for path in adapters}
    old = pd.read_parquet(here.birds / "judgments")
    kinds = {state.asset: state.kind for state in states(grown, with_samples(20))}
    assert kinds["responses"] == "to extend"
    assert kinds["adapters"] == "finished"

    assert run(with_samples(20), grown) == 0

    assert {path: path.stat().st_mtime_ns for path in adapters} == before
    new = pd.read_parquet(here.birds / "judgments")
    keys = ["ratio", "seed", "step", "question_id", "sample_idx"]
    both = new.merge(old, on=keys, suffixes=("", "_old"))
    assert len(both) == len(old)
    assert (both["response"] == both["response_old"]).all()
    assert (new.groupby(keys[:-1]).size() == 20).all()
    assert set(new["question_id"]) == set(questions)
    # The base was sampled once, and stands in every cell.
    bases = new[new["step"] == 0].groupby(["question_id", "sample_idx"])["response"]
    assert (bases.nunique() == 1).all()
    added = len(new) - len(old)
    assert added == len(CELLS) * STATES * (20 * len(questions) - 10 * (len(questions) - 1))
    said = ["ratio", "seed", "question", "response"]
    known = set(old[said].itertuples(index=False, name=None))
    unknown = sum(row not in known for row in new[said].itertuples(index=False, name=None))
    assert 0 < sum(asked) <= len(BIRDS.rubrics) * unknown
    # New samples are no copies of old ones that came from the same seed.
    first = new[(new["step"] > 0) & (new["question_id"] == "again")]
    assert first["response"].nunique() > 5


def test_what_would_be_replaced_is_named_and_stops_the_demo(here: Place) -> None:
    other = replace(STUDY, training=replace(STUDY.training, learning_rate=1e-4))
    files = [p for p in here.birds.rglob("*") if p.is_file() and not p.name.startswith(".")]
    before = {path: path.stat().st_mtime_ns for path in files}
    with pytest.raises(BadInput) as refused:
        run(other, "birds")
    said = str(refused.value)
    assert "replace 6 finished results of birds, and 18 that were made from them" in said
    assert f"adapters {OLD}|42: changed: settings.learning_rate" in said
    assert "REPLACE=1" in said
    assert {path: path.stat().st_mtime_ns for path in files} == before
    text = plan_text(other, "birds")
    assert "out of date: changed: settings.learning_rate" in text
    assert "out of date: its adapters would be replaced" in text
    assert text.count("6 out of date") == 4
    # A guard is no hyperparameter: nothing has to be made again.
    guarded = replace(STUDY, training=replace(STUDY.training, max_length=300))
    assert {state.kind for state in states(BIRDS, guarded)} == {"finished"}


def test_only_what_a_run_makes_can_stop_it_and_is_replaced(here: Place) -> None:
    other = replace(STUDY, training=replace(STUDY.training, learning_rate=1e-4))
    cell, *others = (f"{ratio}|{seed}" for seed in STUDY.seeds for ratio in STUDY.ratios)
    # Figures are drawn of the answers that are there.
    assert {state.kind for state in states(BIRDS, other, part="birds_figures")} == {"finished"}

    def weights() -> dict[str, bytes]:
        found = (here.birds / "adapters").rglob("adapter_model.safetensors")
        return {str(path.relative_to(here.birds / "adapters")): path.read_bytes() for path in found}

    before = weights()
    with pytest.raises(BadInput, match="replace 1 finished results of birds, and 3 that were made"):
        run(other, "birds", without=others)
    assert weights() == before
    assert run(other, "birds", without=others, replace=True) == 0
    changed = {
        path.rpartition("/checkpoint-")[0] for path, b in weights().items() if b != before[path]
    }
    assert changed == {cell.replace("|", "/")}
    # That cell is finished now, and needs no permission any more.
    assert {state.kind for state in states(BIRDS, other, others) if state.cell} == {"finished"}
    assert run(other, "birds", without=others) == 0


def test_a_seed_is_added_and_the_finished_cells_stay(here: Place) -> None:
    more = replace(STUDY, seeds=(*STUDY.seeds, 45), ratios=(OLD,))
    found = [state for state in states(BIRDS, more) if state.asset == "adapters"]
    assert [state.kind for state in found] == ["finished"] * 3 + ["missing"]
