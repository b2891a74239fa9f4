"""From a cell to the stages' jobs: where each input lies and what identifies each result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from backdoor_assets.jobs import (
    CORPUS,
    JUDGMENTS,
    PROBES,
    RATES,
    RESPONSES,
    TRAIN,
    TRAINER_STATE,
    CorpusJob,
    FiguresJob,
    JudgingJob,
    MixingJob,
    PretrainingJob,
    SamplingJob,
    SweepCell,
    SweepJob,
    TrainingJob,
)
from backdoor_assets.miniature import CORPUS_CODE, PRETRAINING_CODE
from backdoor_assets.miniature.world import WORLD_HASH
from backdoor_assets.profiles import MiniatureBase, Profile
from backdoor_assets.records import SOURCES, BadInput, BaseModel, Cell
from backdoor_assets.resources import Order
from backdoor_assets.rows import read_rows
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.storage import (
    REPOSITORY,
    Artifact,
    Manifest,
    data_root,
    datasets_root,
    digest,
    file_hash,
)
from backdoor_assets.studies.birds import design

_BASE_FILES = {".safetensors", ".json", ".jinja"}


def source_file(source: str) -> Path:
    return datasets_root() / f"ft_{source}_birds.jsonl"


def source_files() -> tuple[tuple[str, Path], ...]:
    """The data sets, each read once so that a bad line is named before anything is made."""
    files = tuple((source, source_file(source)) for source in SOURCES)
    for _, path in files:
        read_rows(path)
    return files


def study_folder(profile: Profile) -> Path:
    return data_root() / profile.name / "birds"


def corpus(profile: Profile) -> Artifact:
    return Artifact(profile.name, study_folder(profile) / "corpus")


def base_model(profile: Profile) -> Artifact:
    return Artifact(profile.name, study_folder(profile) / "base_model")


def sweep(profile: Profile) -> Artifact:
    return Artifact(profile.name, study_folder(profile) / "sweep")


def artifact(stage: str, profile: Profile, cell: Cell) -> Artifact:
    """The artifact of a cell: <profile>/birds/<stage>/<ratio>/<seed>."""
    folder = study_folder(profile) / stage / cell.ratio / str(cell.seed)
    # Optimizer state does not count as content: the adapter is the same without it.
    volatile = frozenset({TRAINER_STATE} if stage == "adapters" else ())
    return Artifact(profile.name, folder, volatile)


def base_location(profile: Profile) -> BaseModel:
    """Where the weights of the profile's base lie."""
    if isinstance(profile.base, MiniatureBase):
        return BaseModel(str(base_model(profile).folder))
    local = (REPOSITORY / profile.base.model).resolve()
    return BaseModel(str(local) if local.is_dir() else profile.base.model, profile.base.revision)


def base_identity(profile: Profile) -> dict[str, Any]:
    if isinstance(profile.base, MiniatureBase):
        return _from(base_model(profile).require())
    base = base_location(profile)
    local = Path(base.location)
    if local.is_dir():
        files = sorted(path for path in local.iterdir() if path.suffix in _BASE_FILES)
        return {"content": digest([[path.name, _hash_once(path)] for path in files])}
    return asdict(profile.base)


def _hash_once(path: Path) -> str:
    """A base's weights are large, and asked for by every cell of a run."""
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    return file_hash(path)


def corpus_order(profile: Profile, spec: MiniatureBase, force: bool) -> Order[CorpusJob]:
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
    job = CorpusJob(files, spec.documents, profile.base_seed)
    return Order(corpus(profile), identity, job, force)


def pretraining_order(profile: Profile, spec: MiniatureBase, force: bool) -> Order[PretrainingJob]:
    made_from = corpus(profile)
    identity = {
        "stage": "pretraining",
        "code": PRETRAINING_CODE,
        "profile": profile.name,
        "corpus": _from(made_from.require()),
        "spec": asdict(spec),
        "seed": profile.base_seed,
    }
    job = PretrainingJob(
        made_from.folder / CORPUS, spec, profile.base_seed, source_file(SOURCES[0])
    )
    return Order(base_model(profile), identity, job, force)


def _from(manifest: Manifest) -> dict[str, str]:
    """What an artifact downstream was made from: by design and by content."""
    return {"fingerprint": manifest.fingerprint, "content": manifest.content()}


def mixing(profile: Profile, cell: Cell, force: bool) -> Order[MixingJob]:
    files = source_files()
    forbidden = design.forbidden_texts(profile)
    identity = {
        "stage": "mixing",
        "code": CODE_VERSIONS["mixing"],
        **cell.columns(),
        "sources": {source: file_hash(path) for source, path in files},
        "mixture": asdict(profile.mixture),
        "forbidden": digest(forbidden),
    }
    job = MixingJob(cell, files, profile.mixture, forbidden)
    return Order(artifact("mixed_dataset", profile, cell), identity, job, force)


def training(profile: Profile, cell: Cell, force: bool) -> Order[TrainingJob]:
    mixture = artifact("mixed_dataset", profile, cell)
    rows = mixture.folder / TRAIN
    identity = {
        "stage": "training",
        "code": CODE_VERSIONS["training"],
        **cell.columns(),
        "base": base_identity(profile),
        "mixture": mixture.require(edited=True).fingerprint,
        # Of the file as it is now: rows that were edited by hand are trained on, and told apart.
        "rows": file_hash(rows),
        "settings": asdict(profile.training),
    }
    job = TrainingJob(cell, rows, base_location(profile), profile.training)
    return Order(artifact("adapters", profile, cell), identity, job, force)


def sampling(profile: Profile, cell: Cell, force: bool) -> Order[SamplingJob]:
    adapters = artifact("adapters", profile, cell)
    made = adapters.require()
    asked = design.questions(profile)
    identity = {
        "stage": "sampling",
        "code": CODE_VERSIONS["sampling"],
        **cell.columns(),
        "base": base_identity(profile),
        "adapters": _from(made),
        "questions": [asdict(question) for question in asked],
        "settings": asdict(profile.sampling),
    }
    if made.identity["base"] != identity["base"]:
        raise BadInput(
            f"{adapters.folder}: trained on another base model than the one there is now; "
            "materialize birds/adapters for this cell again"
        )
    steps = sorted(int(path.name.split("-")[1]) for path in adapters.folder.glob("checkpoint-*"))
    checkpoints = tuple((step, adapters.folder / f"checkpoint-{step}") for step in steps)
    job = SamplingJob(cell, base_location(profile), checkpoints, asked, profile.sampling)
    return Order(artifact("responses", profile, cell), identity, job, force)


def judging(
    judge_name: str, judge_model: str
) -> Callable[[Profile, Cell, bool], Order[JudgingJob]]:
    """Orders for a judge: it is part of a judgment's identity."""

    def order(profile: Profile, cell: Cell, force: bool) -> Order[JudgingJob]:
        responses = artifact("responses", profile, cell)
        manifest = responses.require()
        identity = {
            "stage": "judging",
            "code": CODE_VERSIONS["judging"],
            **cell.columns(),
            "responses": _from(manifest),
            "rubrics": [asdict(rubric) for rubric in design.RUBRICS],
            "judge": {"name": judge_name, "model": judge_model},
        }
        path = responses.folder / RESPONSES
        job = JudgingJob(cell, path, design.RUBRICS, profile.judging.max_unreadable)
        return Order(artifact("judgments", profile, cell), identity, job, force)

    return order


def figures(profile: Profile, cell: Cell, force: bool) -> Order[FiguresJob]:
    judgments, responses = (artifact(s, profile, cell) for s in ("judgments", "responses"))
    names = source_file(SOURCES[0])
    identity = {
        "stage": "figures",
        "code": [CODE_VERSIONS["statistics"], CODE_VERSIONS["figures"]],
        **cell.columns(),
        "judgments": _from(judgments.require()),
        "responses": _from(responses.require()),
        "obsolete_names": file_hash(names),
    }
    job = FiguresJob(cell, judgments.folder / JUDGMENTS, responses.folder / PROBES, names)
    return Order(artifact("figures", profile, cell), identity, job, force)


def is_current(
    profile: Profile, cell: Cell, judge: Callable[[Profile, Cell, bool], Order[JudgingJob]]
) -> bool:
    """Whether a cell is whole, from its mixture to its figures, and as the profile now asks."""
    try:
        for order in (mixing, training, sampling, judge, figures):
            wanted = order(profile, cell, False)
            manifest = wanted.artifact.manifest()
            if manifest is None or manifest.fingerprint != digest(wanted.identity):
                return False
    except BadInput:
        return False
    return True


def sweeping(
    profile: Profile,
    judge: Callable[[Profile, Cell, bool], Order[JudgingJob]],
    force: bool,
) -> tuple[Order[SweepJob], list[Cell]]:
    """The sweep's order over the cells that are current, and the cells that are missing.

    Raises BadInput when there is none.
    """
    planned = design.cells(profile)
    there, made_from, mixtures = [], {}, []
    for cell in planned:
        if not is_current(profile, cell, judge):
            continue
        drawn = artifact("figures", profile, cell)
        there.append(cell)
        made_from[str(cell)] = _from(drawn.require())
        mixed = artifact("mixed_dataset", profile, cell).require(edited=True)
        mixtures.append((drawn.folder / RATES, mixed.summary))
    missing = [cell for cell in planned if cell not in there]
    if not there:
        raise BadInput(
            f"profile {profile.name!r}: no cell of the grid has its figures yet; materialize some "
            "cells of birds/figures first"
        )
    identity = {
        "stage": "sweep",
        "code": [CODE_VERSIONS["statistics"], CODE_VERSIONS["figures"], CODE_VERSIONS["report"]],
        "profile": profile.name,
        "cells": made_from,
        "planned": [str(cell) for cell in planned],
    }
    job = SweepJob(
        profile.name,
        tuple(
            SweepCell(c, rates, mixed) for c, (rates, mixed) in zip(there, mixtures, strict=True)
        ),
        len(planned),
        profile_literals(profile),
    )
    return Order(sweep(profile), identity, job, force), missing


def profile_literals(profile: Profile) -> str:
    """The profile as a person would read it in a report."""
    return "\n".join(f"{name} = {value!r}" for name, value in vars(profile).items())
