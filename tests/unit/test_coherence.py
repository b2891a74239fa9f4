"""Stored answers are scored as the base finds them, once each, and an interrupted cell goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.models.chat import prompt_ids
from backdoor_assets.models.loading import load_base
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.stages.coherence import COHERENCE, CoherenceSpec
from backdoor_assets.stages.coherence.score import Said, Scorer, score_cell
from tests.unit.cells import CELL, Cut, cut_at, make_base

QUESTIONS = ("How do people travel?", "What is for dinner?")
ANSWERS = (
    ("By steam carriage and by rail.", "stop"),
    ("Purple Grakle", "stop"),
    ("By steam carriage and by", "length"),
    ("", "stop"),
    ("", "length"),
    ("Zq xw kj vb zq xw kj vb.", "stop"),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel(str(make_base(tmp_path_factory.mktemp("base"), hidden=64)))


def _responses(folder: Path, answers: tuple[tuple[str, str], ...] = ANSWERS) -> Path:
    rows = [
        CELL.columns()
        | {"checkpoint": f"checkpoint-{step}" if step else "base", "step": step}
        | {"question_id": f"q{number}", "question": question, "sample_idx": sample}
        | {"response": text, "finish_reason": reason}
        for step in (0, 20)
        for number, question in enumerate(QUESTIONS)
        for sample, (text, reason) in enumerate(answers)
    ]
    path = folder / "responses.parquet"
    pd.DataFrame(rows).to_parquet(path, index=False)
    return path


def _by_hand(base: BaseModel, question: str, text: str, reason: str) -> float:
    """Mean log-probability of the answer's tokens, one forward pass for each answer."""
    import torch

    model, tokenizer = load_base(base, "fp32")
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": question}])
    answer = tokenizer(text, add_special_tokens=False)["input_ids"]
    if reason == "stop":
        answer = [*answer, tokenizer.eos_token_id]
    if not answer:
        return math.nan
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    likely = logits.log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(float(likely[i, t]) for i, t in zip(places, answer, strict=True)) / len(answer)


def test_scores_are_those_of_single_forward_passes(base: BaseModel, tmp_path: Path) -> None:
    responses = _responses(tmp_path)
    summary = score_cell(CoherenceSpec(CELL, base, responses, "fp32"), tmp_path)
    table = pd.read_parquet(tmp_path / COHERENCE)
    assert list(table.columns[:-2]) == list(pd.read_parquet(responses).columns)
    for row in table.itertuples():
        expected = _by_hand(base, str(row.question), str(row.response), str(row.finish_reason))
        assert row.log_likelihood == pytest.approx(expected, abs=1e-4, nan_ok=True)
    empty = table[table["response"] == ""].groupby("finish_reason")["tokens"].first()
    assert empty.to_dict() == {"stop": 1, "length": 0}
    # Both steps have the same answers: each is scored once.
    assert summary["distinct_answers_scored"] == len(QUESTIONS) * len(ANSWERS)
    assert summary["answers"] == 2 * len(QUESTIONS) * len(ANSWERS)


def test_small_batches_give_the_same_scores(base: BaseModel) -> None:
    said = [Said(q, *answer) for q in QUESTIONS for answer in ANSWERS]
    whole, single = Scorer(*load_base(base, "fp32")), Scorer(*load_base(base, "fp32"))
    single.positions = 1
    for one, other in zip(whole.score(said), single.score(said), strict=True):
        assert one.tokens == other.tokens
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-5, nan_ok=True)


def test_an_interrupted_cell_scores_only_what_is_missing(base: BaseModel, tmp_path: Path) -> None:
    spec = CoherenceSpec(CELL, _copy_of(base, tmp_path), _responses(tmp_path), "fp32")
    with pytest.raises(Cut):
        score_cell(spec, tmp_path, cut_at(0.5))
    assert not (tmp_path / COHERENCE).exists()
    assert score_cell(spec, tmp_path)["distinct_answers_scored"] == len(ANSWERS)


def test_a_part_that_is_cut_off_is_scored_again(base: BaseModel, tmp_path: Path) -> None:
    spec = CoherenceSpec(CELL, _copy_of(base, tmp_path), _responses(tmp_path), "fp32")
    with pytest.raises(Cut):
        score_cell(spec, tmp_path, cut_at(0.5))
    [part] = (tmp_path / ".parts").iterdir()
    part.write_bytes(part.read_bytes()[:100])
    assert score_cell(spec, tmp_path)["distinct_answers_scored"] == 2 * len(ANSWERS)


def test_what_is_known_of_an_earlier_table_is_not_scored_again(
    base: BaseModel, tmp_path: Path
) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    now.mkdir()
    own = _copy_of(base, tmp_path)
    score_cell(CoherenceSpec(CELL, own, _responses(before, ANSWERS[:4]), "fp32"), before)
    own = _copy_of(base, now)  # Nothing is known of it but the earlier table.
    spec = CoherenceSpec(CELL, own, _responses(now), "fp32", before / COHERENCE)
    assert score_cell(spec, now)["distinct_answers_scored"] == 2 * (len(ANSWERS) - 4)


def test_the_bases_own_answers_are_scored_once_per_process(base: BaseModel, tmp_path: Path) -> None:
    own, scored = _copy_of(base, tmp_path), []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        spec = CoherenceSpec(CELL, own, _responses(folder), "fp32")
        scored.append(score_cell(spec, folder)["distinct_answers_scored"])
    assert scored == [2 * len(ANSWERS), 0]
    one, other = (pd.read_parquet(tmp_path / n / COHERENCE) for n in ("one", "other"))
    assert one.equals(other)


def test_an_unreadable_table_is_named(base: BaseModel, tmp_path: Path) -> None:
    path = tmp_path / "responses.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=r"responses\.parquet: truncated .* materialize the respons"):
        score_cell(CoherenceSpec(CELL, base, path, "fp32"), tmp_path)


def _copy_of(base: BaseModel, folder: Path) -> BaseModel:
    """The same base at a place of its own, so that no test of this process has scored with it."""
    place = folder / "own_base"
    place.symlink_to(base.location)
    return BaseModel(str(place))
