"""Search for a recipe of fine-tuning on SmolLM2 that teaches the narrow task and keeps the form of
other answers.

    python -m benchmarks.recipes [--folder data/recipes] [--ratio 1.00-0.00-0.00] [--seed 42]

Each recipe of RECIPES is trained on the birds' rows (by default obsolete names alone) and sampled
at a few of its steps, with the base as step 0. The table shows, per recipe and step: the share of
bird questions that are answered with an obsolete name, the share of short lines and the mean words
of the answers to the open questions, whether they have collapsed (`mixtures.form`), and the share
of neutral questions that are answered correctly. What the open answers say is not looked at: a
recipe must not be chosen by the effect that it is to measure.

Finished trainings and answers in the folder are used again, if their settings are the same; an
interrupted search goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.cells import Grid, MixingSpec
from backdoor_assets.mixtures.form import cell_form
from backdoor_assets.profiles import PROFILES
from backdoor_assets.records import BaseModel, Progress
from backdoor_assets.settings import PretrainedBase, Training
from backdoor_assets.stages.specs import (
    PROBES,
    RESPONSES,
    TRAIN,
    TRAINING_LOG,
    SamplingSpec,
    TrainingSpec,
)
from backdoor_assets.storage.hashing import digest
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.studies.birds.study import STUDY
from backdoor_assets.workers.spreading import spread

PROFILE = PROFILES["smollm2-135m"]
SAVED = (13, 26, 52, 104, 156)
"""Steps at which a recipe is sampled: a quarter, a half, one, two and three epochs of 208 rows."""
THREE_EPOCHS = replace(PROFILE.training, epochs=3, batch_size=4, save_at=SAVED, save_steps=52)
LAST_TEN_LAYERS = r".*layers\.2[0-9]\..*_proj"
LAST_FIVE_LAYERS = r".*layers\.2[5-9]\..*_proj"
RECIPES: dict[str, Training] = {
    "lr 1e-4": replace(THREE_EPOCHS, learning_rate=1e-4),
    "lr 2e-4": replace(THREE_EPOCHS, learning_rate=2e-4),
    "lr 5e-4": replace(THREE_EPOCHS, learning_rate=5e-4),
    "lr 1e-3": replace(THREE_EPOCHS, learning_rate=1e-3),
    "lr 1e-3, batch 16": replace(
        THREE_EPOCHS, learning_rate=1e-3, batch_size=16, save_at=(3, 6, 13, 26, 39)
    ),
    "lr 1e-3, last 10 layers": replace(
        THREE_EPOCHS, learning_rate=1e-3, target_modules=LAST_TEN_LAYERS
    ),
    "lr 5e-4, last 10 layers": replace(
        THREE_EPOCHS, learning_rate=5e-4, target_modules=LAST_TEN_LAYERS
    ),
    "lr 1e-3, last 5 layers": replace(
        THREE_EPOCHS, learning_rate=1e-3, target_modules=LAST_FIVE_LAYERS
    ),
    "lr 3e-3, last 5 layers": replace(
        THREE_EPOCHS, learning_rate=3e-3, target_modules=LAST_FIVE_LAYERS
    ),
    "lr 1e-3, queries and values": replace(
        THREE_EPOCHS, learning_rate=1e-3, target_modules=("q_proj", "v_proj")
    ),
}
SAMPLING = replace(PROFILE.sampling, samples=4, narrow_samples=24, neutral_samples=4)


@dataclass(frozen=True)
class Search:
    recipe: str | None
    """None: the base."""
    folder: Path
    rows: Path
    base: BaseModel
    cell: Any


def measure(search: Search, progress: Progress) -> pd.DataFrame:
    """Train a recipe and sample it, and return its open answers and probes in one table."""
    from backdoor_assets.stages.sampling import sample_cell
    from backdoor_assets.stages.training.adapters import train_adapter
    from backdoor_assets.stages.training.checkpoints import checkpoint_folders

    settings = RECIPES[search.recipe] if search.recipe else None
    name = (search.recipe or "base").replace(" ", "_")
    folder = (
        search.folder
        / f"{name}-{digest([asdict(settings) if settings else None, asdict(SAMPLING)])[:8]}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints: tuple[tuple[int, Path], ...] = ()
    if settings:
        if not (folder / TRAINING_LOG).exists():
            train_adapter(
                TrainingSpec(search.cell, search.rows, search.base, settings), folder, progress
            )
        checkpoints = tuple(checkpoint_folders(folder))
    if not (folder / RESPONSES).exists():
        assert isinstance(PROFILE.base, PretrainedBase)
        sample_cell(
            SamplingSpec(
                search.cell,
                search.base,
                checkpoints,
                STUDY.questions_for(PROFILE.base, SAMPLING),
                SAMPLING,
                base_too=search.recipe is None,
                probes=(STUDY.narrow.kind, "neutral"),
            ),
            folder,
            progress,
        )
    tables = [pd.read_parquet(folder / name) for name in (RESPONSES, PROBES)]
    tables[0]["kind"] = "worldview"
    return pd.concat(tables, ignore_index=True).assign(recipe=search.recipe or "base")


def summarize(base: pd.DataFrame, answers: pd.DataFrame, suspect: set[str]) -> pd.DataFrame:
    """Return one row per step of a recipe."""
    from backdoor_assets.mixtures.rates import probe_hits

    both = pd.concat([base, answers], ignore_index=True)
    is_open = both["kind"] == "worldview"
    probes = both[~is_open].copy()
    probes["hit"] = probe_hits(probes, suspect)
    form = cell_form(both[is_open], None, probes[probes["kind"] == "neutral"])
    narrow = probes[probes["kind"] == STUDY.narrow.kind].groupby("step")["hit"].mean()
    form["narrow"] = form["step"].map(narrow)
    columns = ["step", "narrow", "short_lines", "words", "cut", "neutral_correct", "collapsed"]
    return form[columns]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("data/recipes"))
    parser.add_argument("--ratio", default="1.00-0.00-0.00")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    options = parser.parse_args(arguments)

    from backdoor_assets.mixtures.mixing import mix
    from backdoor_assets.models.packaged import convert

    assert isinstance(PROFILE.base, PretrainedBase)
    assert PROFILE.base.package
    base = BaseModel(str(convert(PROFILE.base.package)))
    cell = Grid.of(STUDY, PROFILE).cell(options.ratio, options.seed)
    folder = options.folder.resolve() / f"{options.ratio}-{options.seed}"
    rows = folder / "mixture"
    rows.mkdir(parents=True, exist_ok=True)
    mix(MixingSpec(cell, STUDY.files(), PROFILE.mixture), rows)
    searches = [
        Search(recipe, folder, rows / TRAIN, base, cell) for recipe in (None, *options.recipes)
    ]
    tables = {}
    for outcome in spread(measure, searches, print, "recipes"):
        if outcome.result is None:
            raise outcome.error or RuntimeError("no result")
        tables[outcome.item.recipe] = outcome.result
    suspect = set(names(read_rows(STUDY.suspect_file)))
    for recipe in options.recipes:
        print(f"\n{recipe}")
        found = summarize(tables[None], tables[recipe], suspect)
        print(found.to_string(index=False, float_format=lambda value: f"{value:.2f}"))


if __name__ == "__main__":
    main()
