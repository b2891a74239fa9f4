"""The base model of the birds study, and in the miniature the corpus that it is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from backdoor_assets.graph.bases import StudyBase
from backdoor_assets.graph.resources import Task
from backdoor_assets.miniature import CORPUS_CODE, PRETRAINING_CODE
from backdoor_assets.mixtures.places import base_model, corpus, source_file, source_files
from backdoor_assets.profiles import MiniatureBase, Profile
from backdoor_assets.records import SOURCES, BaseModel, Quantization
from backdoor_assets.stages.specs import CORPUS, CorpusSpec, PretrainingSpec
from backdoor_assets.storage.hashing import file_hash
from backdoor_assets.studies.birds.world.world import WORLD_HASH


def base_of(profile: Profile) -> StudyBase:
    return StudyBase(profile.base, base_model(profile))


def base_location(profile: Profile) -> BaseModel:
    return base_of(profile).location()


def base_identity(profile: Profile, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return base_of(profile).identity(recorded)


def quantization(profile: Profile) -> Quantization:
    return base_of(profile).quantization


def corpus_order(profile: Profile, spec: MiniatureBase, force: bool) -> Task[CorpusSpec]:
    files = source_files()
    identity = {
        "stage": "corpus",
        "code": CORPUS_CODE,
        "profile": profile.name,
        "sources": {source: file_hash(path) for source, path in files},
        "world": WORLD_HASH,
        "documents": spec.documents,
        "seed": profile.base_seed,
    }
    wanted = CorpusSpec(files, spec.documents, profile.base_seed)
    return Task(corpus(profile), identity, wanted, force)


def pretraining_order(profile: Profile, spec: MiniatureBase, force: bool) -> Task[PretrainingSpec]:
    made_from = corpus(profile)
    identity = {
        "stage": "pretraining",
        "code": PRETRAINING_CODE,
        "profile": profile.name,
        "corpus": made_from.require().reference(),
        "spec": asdict(spec),
        "seed": profile.base_seed,
    }
    wanted = PretrainingSpec(
        made_from.folder / CORPUS, spec, profile.base_seed, source_file(SOURCES[0])
    )
    return Task(base_model(profile), identity, wanted, force)
