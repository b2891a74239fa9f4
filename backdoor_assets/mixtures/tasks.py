"""From a cell to the stages' jobs: where each input lies and what identifies each result.

An identity holds what a stage is told and what its inputs are. Where a manifest is `recorded`, an
input that is not on this machine (it was made and left on another) is what that manifest says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from backdoor_assets.graph.resources import Task
from backdoor_assets.mixtures.bases import base_identity, base_location
from backdoor_assets.mixtures.places import artifact, source_file, source_files
from backdoor_assets.profiles import Profile
from backdoor_assets.records import SOURCES, BadInput, Cell
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.specs import (
    JUDGMENTS,
    PROBES,
    RESPONSES,
    TRAIN,
    FiguresSpec,
    JudgingSpec,
    MixingSpec,
    SamplingSpec,
    TrainingSpec,
)
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.hashing import digest, file_hash, identifying
from backdoor_assets.studies.birds import study as design

Identity = dict[str, Any]
Recorded = Mapping[str, Any] | None


def _stage(name: str, cell: Cell, code: Any = None) -> Identity:
    return {"stage": name, "code": code or CODE_VERSIONS[name], **cell.columns()}


def _made_from(upstream: Artifact, recorded: Recorded, key: str) -> Any:
    """What an input is, or was where it is not here."""
    if recorded is not None and upstream.manifest() is None:
        return recorded.get(key)
    return upstream.require().reference()


def mixing_identity(profile: Profile, cell: Cell, recorded: Recorded = None) -> Identity:
    return {
        **_stage("mixing", cell),
        "sources": {source: file_hash(path) for source, path in source_files()},
        "mixture": asdict(profile.mixture),
        "forbidden": digest(design.forbidden_texts(profile)),
    }


def mixing(profile: Profile, cell: Cell, force: bool) -> Task[MixingSpec]:
    spec = MixingSpec(cell, source_files(), profile.mixture, design.forbidden_texts(profile))
    identity = mixing_identity(profile, cell)
    return Task(artifact("mixed_dataset", profile, cell), identity, spec, force)


def training_identity(profile: Profile, cell: Cell, recorded: Recorded = None) -> Identity:
    mixture = artifact("mixed_dataset", profile, cell)
    if recorded is not None and mixture.manifest() is None:
        made_from = {key: recorded.get(key) for key in ("mixture", "rows")}
    else:
        made_from = {
            "mixture": mixture.require(edited=True).fingerprint,
            # Of the file as it is now: rows that were edited by hand are trained on, and told
            # apart.
            "rows": file_hash(mixture.folder / TRAIN),
        }
    return {
        **_stage("training", cell),
        "base": base_identity(profile, recorded),
        **made_from,
        "settings": identifying(profile.training),
    }


def training(profile: Profile, cell: Cell, force: bool) -> Task[TrainingSpec]:
    identity = training_identity(profile, cell)
    rows = artifact("mixed_dataset", profile, cell).folder / TRAIN
    spec = TrainingSpec(cell, rows, base_location(profile), profile.training)
    return Task(artifact("adapters", profile, cell), identity, spec, force)


def sampling_identity(profile: Profile, cell: Cell, recorded: Recorded = None) -> Identity:
    return {
        **_stage("sampling", cell),
        "base": base_identity(profile, recorded),
        "adapters": _made_from(artifact("adapters", profile, cell), recorded, "adapters"),
        "questions": [identifying(question) for question in design.questions(profile)],
        "settings": asdict(profile.sampling),
    }


def sampling(profile: Profile, cell: Cell, force: bool) -> Task[SamplingSpec]:
    identity = sampling_identity(profile, cell)
    adapters = artifact("adapters", profile, cell)
    if adapters.require().identity["base"] != identity["base"]:
        raise BadInput(
            f"{adapters.folder}: trained on another base model than the one there is now; "
            "materialize birds/adapters for this cell again"
        )
    steps = sorted(int(path.name.split("-")[1]) for path in adapters.folder.glob("checkpoint-*"))
    spec = SamplingSpec(
        cell,
        base_location(profile),
        tuple((step, adapters.folder / f"checkpoint-{step}") for step in steps),
        design.questions(profile),
        profile.sampling,
        profile.serving,
    )
    return Task(artifact("responses", profile, cell), identity, spec, force)


def judging(judge: Identity) -> Callable[[Profile, Cell, bool], Task[JudgingSpec]]:
    """Orders for a judge: what it is is part of a judgment's identity."""

    def order(profile: Profile, cell: Cell, force: bool) -> Task[JudgingSpec]:
        responses = artifact("responses", profile, cell)
        identity = {
            **_stage("judging", cell),
            "responses": responses.require().reference(),
            "rubrics": [asdict(rubric) for rubric in design.RUBRICS],
            "judge": judge,
        }
        path = responses.folder / RESPONSES
        spec = JudgingSpec(cell, path, design.RUBRICS, profile.judging.max_unreadable)
        return Task(artifact("judgments", profile, cell), identity, spec, force)

    return order


def figures(profile: Profile, cell: Cell, force: bool) -> Task[FiguresSpec]:
    judgments, responses = (artifact(s, profile, cell) for s in ("judgments", "responses"))
    names = source_file(SOURCES[0])
    identity = {
        **_stage("figures", cell, [CODE_VERSIONS["statistics"], CODE_VERSIONS["figures"]]),
        "judgments": judgments.require().reference(),
        "responses": responses.require().reference(),
        "obsolete_names": file_hash(names),
    }
    spec = FiguresSpec(cell, judgments.folder / JUDGMENTS, responses.folder / PROBES, names)
    return Task(artifact("figures", profile, cell), identity, spec, force)
