"""The base model of a profile: pretrained here, a local folder, or fetched from a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from backdoor_assets import hub
from backdoor_assets.disk import write_text
from backdoor_assets.hashing import digest, file_hash
from backdoor_assets.host import this_host
from backdoor_assets.jobs import CORPUS, CorpusJob, PretrainingJob
from backdoor_assets.miniature import CORPUS_CODE, PRETRAINING_CODE
from backdoor_assets.miniature.world import WORLD_HASH
from backdoor_assets.preflight import check_download
from backdoor_assets.profiles import MiniatureBase, PretrainedBase, Profile
from backdoor_assets.records import SOURCES, BaseModel, Quantization
from backdoor_assets.resources import Order
from backdoor_assets.shapes import check_shape
from backdoor_assets.storage import (
    REPOSITORY,
)
from backdoor_assets.studies.birds.places import base_model, corpus, source_file, source_files

_BASE_FILES = {".safetensors", ".json", ".jinja"}
BASE = "base.json"
"""What a fetched base is: model, commit, config. Its weights stay in the hub's cache."""


def base_location(profile: Profile) -> BaseModel:
    """Where the weights of the profile's base lie on this machine. Raises BadInput when a base of a
    hub is neither here nor to be had."""
    base = profile.base
    if isinstance(base, MiniatureBase):
        return BaseModel(str(base_model(profile).folder))
    if not is_local(base):
        base = replace(base, revision=base_model(profile).require().summary["commit"])
    return BaseModel(str(_fetch_once(base).folder), quantization=base.quantization)


@cache
def _fetch_once(base: PretrainedBase) -> hub.Fetched:
    return hub.fetch(base)


def quantization(profile: Profile) -> Quantization:
    return "none" if isinstance(profile.base, MiniatureBase) else profile.base.quantization


def is_local(base: PretrainedBase) -> bool:
    return (REPOSITORY / base.model).is_dir()


def base_identity(profile: Profile, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the base is; where it is not on this machine, what the identity that is `recorded` of a
    stage says it was."""
    base, kind = profile.base, quantization(profile)
    quantized = {} if kind == "none" else {"quantization": kind}
    if isinstance(base, PretrainedBase) and is_local(base):
        folder = (REPOSITORY / base.model).resolve()
        files = sorted(path for path in folder.iterdir() if path.suffix in _BASE_FILES)
        return {"content": digest([[path.name, _hash_once(path)] for path in files]), **quantized}
    if recorded is not None and base_model(profile).manifest() is None:
        return recorded["base"]
    manifest = base_model(profile).require()
    if isinstance(base, MiniatureBase):
        return manifest.reference()
    return {"model": base.model, "commit": manifest.summary["commit"], **quantized}


def _hash_once(path: Path) -> str:
    """A base's weights are large, and asked for by every cell of a run."""
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    return file_hash(path)


def fetching_order(profile: Profile, base: PretrainedBase, force: bool) -> Order[PretrainedBase]:
    """The base of a hub: fetched, checked, and written down with the commit that it resolved to."""
    identity = {
        "stage": "fetching",
        "profile": profile.name,
        "model": base.model,
        "revision": base.revision,
        "shape": asdict(base.shape) if base.shape else None,
        "local": base_identity(profile) if is_local(base) else None,
    }
    return Order(base_model(profile), identity, base, force)


def fetch(base: PretrainedBase, folder: Path) -> dict[str, Any]:
    """Fetch a base and write what it is into `folder`. Raises BadInput when it cannot be had, is of
    another shape than the profile says, or its weights do not fit on the disk."""
    if base.shape and not is_local(base) and not hub.cached(base):
        cache_folder = hub.cache_folder()
        check_download(base.shape, cache_folder, this_host(cache_folder))
    fetched = hub.fetch(base)
    check_shape(base, fetched.config)
    what = {"model": base.model, "commit": fetched.commit, "config": fetched.config}
    write_text(folder / BASE, json.dumps(what, indent=1))
    return {"model": base.model, "commit": fetched.commit}


def told(folder: Path) -> dict[str, Any]:
    """What `fetch` has written down."""
    return json.loads((folder / BASE).read_text(encoding="utf-8"))


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
        "corpus": made_from.require().reference(),
        "spec": asdict(spec),
        "seed": profile.base_seed,
    }
    job = PretrainingJob(
        made_from.folder / CORPUS, spec, profile.base_seed, source_file(SOURCES[0])
    )
    return Order(base_model(profile), identity, job, force)
