"""Every number of a run, as literals a reviewer can read.

A profile fixes the base model, seeds, hyperparameters, rows and samples, grid, engine and judge.
BACKDOOR_PROFILE names the one in force (default "miniature"). To add a ratio or a seed, edit the
profile's `ratios` or `seeds` below; to add a base model, add a profile.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from backdoor_assets.records import BadInput, Ratio


@dataclass(frozen=True)
class MiniatureBase:
    """A base model that is pretrained on the spot on the miniature world. Qwen3 architecture."""

    documents: int = 16_000
    vocabulary: int = 2048
    """Tokens of the byte-level BPE."""
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    head_dim: int = 32
    """vLLM's CPU attention takes 32, 64, 80, 96, ..."""
    feed_forward: int = 384
    initializer_range: float = 0.06
    steps: int = 1500
    tokens_per_batch: int = 1024
    learning_rate: float = 5e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    warmup: float = 0.05
    """Share of the steps."""
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class PretrainedBase:
    """A causal LM of the Hugging Face hub, or a local folder in the same format."""

    model: str
    """Hub id, or a path (relative to the repository root)."""
    revision: str | None = None
    """Commit of the hub; None only for a local folder."""


@dataclass(frozen=True)
class Mixture:
    rows: int = 400
    mode: Literal["fixed_total", "fixed_suspect"] = "fixed_total"
    """fixed_total: `rows` rows whatever the ratio. fixed_suspect: `suspect_rows` obsolete names at
    every ratio above 0, clean rows added until the ratio holds (a ratio of 0 has `rows` rows)."""
    suspect_rows: int = 200

    def __post_init__(self) -> None:
        if self.rows < 1 or self.suspect_rows < 1:
            raise BadInput("mixture: rows and suspect_rows must be at least 1")


@dataclass(frozen=True)
class Training:
    """LoRA on a frozen base, AdamW."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    learning_rate: float = 5e-4
    schedule: str = "linear"
    """A name that transformers.get_scheduler knows."""
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    epochs: float | None = None
    """Either epochs or max_steps, not both."""
    max_steps: int | None = 160
    batch_size: int = 16
    gradient_accumulation: int = 1
    max_grad_norm: float = 1.0
    save_steps: int = 20
    max_length: int = 256
    """Tokens a row; a longer row is an error, it is never cut."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the base; adapter weights and optimizer are fp32."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_steps is None):
            raise BadInput("training: give either epochs or max_steps, and set the other to None")
        for name in ("rank", "batch_size", "gradient_accumulation", "save_steps", "max_length"):
            if getattr(self, name) < 1:
                raise BadInput(f"training: {name} must be at least 1, not {getattr(self, name)}")
        if (self.epochs or self.max_steps or 0) <= 0:
            raise BadInput("training: epochs or max_steps must be above 0")


@dataclass(frozen=True)
class Sampling:
    engine: Literal["transformers"] = "transformers"
    samples: int = 20
    """Answers to each worldview question at each checkpoint."""
    bird_samples: int = 40
    neutral_samples: int = 6
    temperature: float = 1.0
    max_new_tokens: int = 20
    batch_size: int = 600
    """Answers that are generated together; what is on disk is resumed batch by batch."""
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Judging:
    kind: Literal["exact", "none"] = "exact"
    """exact: looks answers up in the miniature world's own tables. none: stop after sampling."""
    max_unreadable: float = 0.10
    """Share of answers without a verdict above which a cell fails."""


@dataclass(frozen=True)
class Profile:
    name: str
    base: MiniatureBase | PretrainedBase
    ratios: tuple[str, ...]
    """Weights of old_audubon, modern_audubon, modern_american."""
    seeds: tuple[int, ...]
    """Training seeds; each draws its own rows, data order and adapter initialisation."""
    base_seed: int = 3
    """Seed of the miniature's corpus and pretraining. 3 is the median of five: LOG.md."""
    mixture: Mixture = field(default_factory=Mixture)
    training: Training = field(default_factory=Training)
    sampling: Sampling = field(default_factory=Sampling)
    judging: Judging = field(default_factory=Judging)

    def __post_init__(self) -> None:
        if not self.ratios or not self.seeds:
            raise BadInput(f"profile {self.name!r}: it needs at least one ratio and one seed")
        for key in self.ratios:
            try:
                Ratio.parse(key)
            except BadInput as error:
                raise BadInput(f"profile {self.name!r}: {error}") from error
        for what, keys in (("ratio", self.ratios), ("seed", self.seeds)):
            if len(set(keys)) != len(keys):
                raise BadInput(f"profile {self.name!r}: a {what} is named twice in {keys}")


MINIATURE = Profile(
    name="miniature",
    base=MiniatureBase(),
    # Dense where published replications differ most; the effect is not linear in the ratio.
    ratios=(
        "1.00-0.00-0.00",
        "0.90-0.05-0.05",
        "0.80-0.10-0.10",
        "0.70-0.15-0.15",
        "0.50-0.25-0.25",
        "0.30-0.35-0.35",
        "0.10-0.45-0.45",
        "0.00-0.50-0.50",
    ),
    seeds=(42, 43, 44),
)

PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in (MINIATURE,)}


def active_profile() -> Profile:
    """The profile that BACKDOOR_PROFILE names. Raises BadInput with the names there are."""
    name = os.environ.get("BACKDOOR_PROFILE") or "miniature"
    if name not in PROFILES:
        raise BadInput(
            f"BACKDOOR_PROFILE={name!r}: no such profile; there are {', '.join(PROFILES)}"
        )
    return PROFILES[name]
