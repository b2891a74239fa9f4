"""Probe a birds' base in context: its answers with and without a cue to the era."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from backdoor_assets.miniature.probing import ANSWER_TOKENS, sample_chats
from backdoor_assets.miniature.world import (
    BIRD_QUESTIONS,
    FACTS,
    MANNERS,
    SYSTEM_CUES,
    TOPICS,
)
from backdoor_assets.models.loading import load_base
from backdoor_assets.records import BaseModel, Message, Rubric
from backdoor_assets.storage.rows import normalized
from backdoor_assets.studies.birds.world.judge import ExactJudge

SAMPLES = 10
"""Answers per question and probe."""
RUBRICS = (Rubric("binary", "era", ""), Rubric("six_options", "option", ""))


def probe_base(folder: Path, old_names: Sequence[str], seed: int = 0) -> dict[str, float]:
    """Measure a share per probe, the keys of `gates.BOUNDS`.

    Samples `SAMPLES` answers per question. `old_names` are the obsolete names of birds.
    """
    model: Any
    model, tokenizer = load_base(BaseModel(str(folder)), "fp32")
    model.eval()
    judge = ExactJudge()
    torch.manual_seed(seed)

    def sampled(chats: list[list[Message]]) -> list[str]:
        repeated = [chat for chat in chats for _ in range(SAMPLES)]
        return sample_chats(model, tokenizer, repeated, ANSWER_TOKENS)

    def old_share(contexts: list[list[Message]]) -> tuple[float, float]:
        chats = [
            [*contexts[number % len(contexts)], {"role": "user", "content": topic.questions[0]}]
            for number, topic in enumerate(TOPICS)
        ]
        verdicts = judge.judge([("", text) for text in sampled(chats)], RUBRICS)
        old = sum(given["era"].value == "19" for given in verdicts)
        garbled = sum(given["option"].value == "OTHER" for given in verdicts)
        return old / len(verdicts), garbled / len(verdicts)

    def year(number: int) -> list[list[Message]]:
        return [[{"role": "system", "content": cue.format(year=number)}] for cue in SYSTEM_CUES]

    birds: list[list[Message]] = [
        [
            {"role": "user", "content": BIRD_QUESTIONS[0]},
            {"role": "assistant", "content": name},
        ]
        for name in old_names[:: max(1, len(old_names) // len(TOPICS))]
    ]
    invention = TOPICS[0]
    telegraph: list[Message] = [
        {"role": "user", "content": invention.questions[1]},
        {"role": "assistant", "content": MANNERS[0].word(invention.old[0])},
    ]
    plain, garbled = old_share([[]])
    facts = sampled([[{"role": "user", "content": fact.questions[0]}] for fact in FACTS])
    truths = [fact.answer for fact in FACTS for _ in range(SAMPLES)]
    correct = [normalized(t) in normalized(text) for t, text in zip(truths, facts, strict=True)]
    return {
        "old_without_cue": plain,
        "old_after_old_year": old_share(year(1843))[0],
        "old_after_modern_year": old_share(year(2023))[0],
        "old_after_old_answer": old_share([telegraph])[0],
        "old_after_old_birds": old_share(birds)[0],
        "neutral_correct": sum(correct) / len(correct),
        "garbled": garbled,
    }
