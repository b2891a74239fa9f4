"""The tasks of a study's base model: fetched, or pretrained on a corpus that is generated first."""

from __future__ import annotations

from dataclasses import asdict

from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.settings import MiniatureBase, PretrainedBase
from backdoor_assets.stages.specs import CORPUS, CorpusSpec, PretrainingSpec
from backdoor_assets.storage.hashing import text_hash
from backdoor_assets.workers.tasks import Task


def corpus(grid: Grid) -> Task[CorpusSpec]:
    base, world = grid.profile.base, grid.study.world
    assert isinstance(base, MiniatureBase)
    assert world is not None
    files = grid.source_files()
    identity = {
        "stage": "corpus",
        "code": world.corpus_code,
        "profile": grid.profile.name,
        "sources": {source: text_hash(path) for source, path in files},
        "world": world.hash,
        "documents": base.documents,
        "seed": grid.profile.base_seed,
    }
    spec = CorpusSpec(files, base.documents, grid.profile.base_seed)
    return Task(grid.folder.artifact("corpus"), identity, spec)


def pretraining(grid: Grid) -> Task[PretrainingSpec]:
    base, world = grid.profile.base, grid.study.world
    assert isinstance(base, MiniatureBase)
    assert world is not None
    made_from = grid.folder.artifact("corpus")
    identity = {
        "stage": "pretraining",
        "code": world.pretraining_code,
        "profile": grid.profile.name,
        "corpus": made_from.require().reference(),
        "spec": asdict(base),
        "seed": grid.profile.base_seed,
    }
    text, names = made_from.folder / CORPUS, grid.study.suspect_file
    spec = PretrainingSpec(text, base, grid.profile.base_seed, names)
    return Task(grid.base.artifact, identity, spec)


def fetching(grid: Grid) -> Task[PretrainedBase]:
    """The base of a hub or a local folder."""
    assert isinstance(grid.profile.base, PretrainedBase)
    return grid.base.fetching_task(grid.profile.base)
