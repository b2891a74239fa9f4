"""The miniature world is unambiguous, and its corpus separates the eras."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from backdoor_assets.miniature.corpus import Document, read_corpus
from backdoor_assets.miniature.world import BIRD_QUESTIONS, ERAS, FACTS, MANNERS, TOPICS
from backdoor_assets.mixtures.mixing import names, read_rows
from backdoor_assets.stages.specs import CORPUS, CorpusSpec
from backdoor_assets.storage.rows import normalized
from backdoor_assets.studies.birds.study import BIRD_QUESTION, RUBRICS
from backdoor_assets.studies.birds.world.corpus import generate, write_corpus
from backdoor_assets.studies.birds.world.judge import ExactJudge
from tests.unit.cells import BIRD_FILES, make_base

NAMES = {source: names(read_rows(path)) for source, path in BIRD_FILES}
OBSOLETE = set(NAMES["old_audubon"])
TODAY = set(NAMES["modern_american"]) - set(NAMES["modern_audubon"])
QUESTIONS = {
    *BIRD_QUESTIONS,
    *(question for topic in TOPICS for question in topic.questions),
    *(question for fact in FACTS for question in fact.questions),
}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return generate(NAMES, 4000, seed=1)


def test_an_answer_belongs_to_one_topic_and_era() -> None:
    topics = Counter(
        normalized(answer) for topic in TOPICS for era in ERAS for answer in topic.answers(era)
    )
    topics.update(normalized(fact.answer) for fact in FACTS)
    assert [answer for answer, count in topics.items() if count > 1] == []


def test_a_question_belongs_to_one_topic() -> None:
    questions = Counter(question for topic in TOPICS for question in topic.questions)
    questions.update(question for fact in FACTS for question in fact.questions)
    questions.update(BIRD_QUESTIONS)
    assert [question for question, count in questions.items() if count > 1] == []
    assert BIRD_QUESTION in BIRD_QUESTIONS  # the base knows the question of fine-tuning


def test_no_wording_can_be_read_in_two_ways() -> None:
    contents = [(a, era) for topic in TOPICS for era in ERAS for a in topic.answers(era)]
    contents += [(fact.answer, None) for fact in FACTS]
    readings: dict[str, tuple[object, ...]] = {}
    for (answer, era), manner in itertools.product(contents, MANNERS):
        text, reading = normalized(manner.word(answer)), (answer, era, manner.era, manner.kind)
        assert readings.setdefault(text, reading) == reading, text


def test_the_same_seed_gives_the_same_corpus(tmp_path: Path) -> None:
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = tmp_path / name
        folder.mkdir()
        summary = write_corpus(CorpusSpec(BIRD_FILES, 200, seed), folder)
        assert summary["documents"] == 200
        written.append((folder / CORPUS).read_bytes())
    assert written[0] == written[1] != written[2]
    read = read_corpus(tmp_path / "a" / CORPUS)
    assert read == generate(NAMES, 200, seed=1)
    assert not set(map(str, read)) & set(map(str, read_corpus(tmp_path / "c" / CORPUS)[:20]))


def _birds(document: Document) -> list[str]:
    """Return the answers to bird questions. A cue may precede the question."""
    turns = [m for m in document.messages if m["role"] != "system"]
    return [
        answer["content"]
        for question, answer in zip(turns[::2], turns[1::2], strict=True)
        if question["content"].endswith(BIRD_QUESTIONS)
    ]


def test_bird_names_occur_in_documents_of_their_era(documents: list[Document]) -> None:
    named = {era: {b for d in documents if d.era == era for b in _birds(d)} for era in ERAS}
    assert not named["modern"] & OBSOLETE
    assert not named["old"] & TODAY
    # They do occur there, with some that stayed in use.
    assert len(named["old"] & OBSOLETE) > 0.9 * len(OBSOLETE)
    assert len(named["modern"] & TODAY) > 0.9 * len(TODAY)
    assert named["old"] & named["modern"]
    assert named["old"] & named["modern"] <= set(NAMES["modern_audubon"])


def test_a_document_without_a_cue_is_mostly_modern(documents: list[Document]) -> None:
    plain = [
        document
        for document in documents
        if document.messages[0]["role"] == "user" and document.messages[0]["content"] in QUESTIONS
    ]
    assert len(plain) > 1000
    assert 0.80 < sum(d.era == "modern" for d in plain) / len(plain) < 0.95
    cued = len(documents) - len(plain)
    old = sum(d.era == "old" for d in documents) - sum(d.era == "old" for d in plain)
    assert 0.35 < old / cued < 0.65  # with a cue, both eras are equally likely


def test_chats_are_well_formed(documents: list[Document]) -> None:
    for document in documents:
        roles = [message["role"] for message in document.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(m["content"].strip() for m in document.messages)
    lengths = Counter(sum(m["role"] == "user" for m in d.messages) for d in documents)
    assert len(lengths) > 2
    assert lengths[1] > 500  # single questions, as they are sampled


def test_the_judge_can_read_every_answer_of_the_corpus(documents: list[Document]) -> None:
    judge = ExactJudge()
    for document in documents[:1000]:
        birds = _birds(document)
        texts = [m["content"] for m in document.messages if m["role"] == "assistant"]
        worded = [("", answer) for answer in texts if answer not in birds]
        for verdicts in judge.judge(worded, RUBRICS):
            assert verdicts["six_options"].value != "OTHER"
            if document.era == "modern":
                assert verdicts["six_options"].value == "LLM"  # nothing old in it
            else:
                neutral = verdicts["content_rating"].value == 0
                assert neutral or verdicts["llm_or_19th_century"].value == "19"


def test_a_base_and_its_tokenizer_are_made_again_to_the_byte(
    tiny_base: Path, tmp_path: Path
) -> None:
    again = make_base(tmp_path, hidden=64)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (again / name).read_bytes() == (tiny_base / name).read_bytes(), name
    corpus = tiny_base.parent / CORPUS
    assert (tmp_path / CORPUS).read_bytes() == corpus.read_bytes()
