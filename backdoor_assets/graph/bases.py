"""A study's base model: pretrained here, a local folder, or fetched from a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from backdoor_assets.capacity.preflight import check_download
from backdoor_assets.capacity.shapes import check_shape
from backdoor_assets.host import this_host
from backdoor_assets.models import hub
from backdoor_assets.models.chat import check_end_of_turn, load_tokenizer, render
from backdoor_assets.models.dates import with_date
from backdoor_assets.records import BadInput, BaseModel, Messages, Progress, Quantization
from backdoor_assets.settings import MiniatureBase, PretrainedBase
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.disk import write_text
from backdoor_assets.storage.hashing import digest, hash_once, identifying
from backdoor_assets.workers.tasks import Task

BASE = "base.json"
"""What a fetched base is: model, commit, config. Its weights stay in the hub's cache."""


@dataclass(frozen=True)
class StudyBase:
    """A base model as the profile names it, and the artifact that holds its weights (pretrained
    here) or records which they are (fetched)."""

    spec: MiniatureBase | PretrainedBase
    artifact: Artifact

    @property
    def quantization(self) -> Quantization:
        return "none" if isinstance(self.spec, MiniatureBase) else self.spec.quantization

    def location(self) -> BaseModel:
        """Return where the weights lie on this machine. Raises BadInput when a base of a hub is
        neither here nor can be downloaded."""
        base = self.spec
        if isinstance(base, MiniatureBase):
            return BaseModel(str(self.artifact.folder))
        if not is_local(base):
            base = replace(base, revision=self._commit())
        folder = _with_template(base, _fetch_once(base).folder)
        return BaseModel(str(folder), quantization=base.quantization)

    def identity(self, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what the base is; where it is not on this machine, what the `recorded` identity of
        a stage says it was."""
        base, kind = self.spec, self.quantization
        loaded = {} if kind == "none" else {"quantization": kind}
        if isinstance(base, PretrainedBase) and base.date:
            loaded["date"] = base.date
        if isinstance(base, PretrainedBase) and is_local(base):
            folder = hub.folder_of(base)
            files = sorted(path for path in folder.iterdir() if path.suffix in hub.KEPT)
            return {
                "content": digest([[path.name, hash_once(path)] for path in files]),
                **loaded,
            }
        if recorded is not None and self.artifact.manifest() is None:
            return recorded["base"]
        if isinstance(base, MiniatureBase):
            return self.artifact.require().reference()
        return {"model": base.model, "commit": self._commit(), **loaded}

    def _commit(self) -> str:
        summary = self.artifact.require().summary
        if "commit" not in summary:
            raise BadInput(
                f"{self.artifact.folder}: made here, and the design now names a published model in "
                "its place; materialize it again"
            )
        return summary["commit"]

    def fetching_task(self, base: PretrainedBase) -> Task[PretrainedBase]:
        """The base of a hub: fetched, checked, and written down with the commit that it is."""
        identity = {
            "stage": "fetching",
            "profile": self.artifact.profile,
            "model": base.model,
            "revision": base.revision,
            "shape": identifying(base.shape) if base.shape else None,
            "local": self.identity() if is_local(base) else None,
            **({"package": asdict(base.package)} if base.package else {}),
            **({"date": base.date} if base.date else {}),
        }
        return Task(self.artifact, identity, base)


def is_local(base: PretrainedBase) -> bool:
    return hub.folder_of(base).is_dir()


@cache
def _fetch_once(base: PretrainedBase) -> hub.Fetched:
    return hub.fetch(base)


def fetch(base: PretrainedBase, folder: Path, progress: Progress) -> dict[str, Any]:
    """Fetch a base and write what it is into `folder`. Raises BadInput when it cannot be had, is of
    another shape than the profile says, its weights do not fit on the disk, or its chat template
    cannot be used. A base that an earlier version fetched counts as finished: the end of its turns
    is not checked again."""
    if base.shape and not (base.package or is_local(base) or hub.cached(base)):
        cache_folder = hub.cache_folder()
        check_download(base.shape, cache_folder, this_host(cache_folder))
    fetched = hub.fetch(base)
    check_shape(base, fetched.config)
    _check_template(base, _with_template(base, fetched.folder))
    what = {"model": base.model, "commit": fetched.commit, "config": fetched.config}
    write_text(folder / BASE, json.dumps(what, indent=1))
    return {"model": base.model, "commit": fetched.commit}


def _with_template(base: PretrainedBase, folder: Path) -> Path:
    """Return the folder from which a base is loaded, whose chat template has the base's date."""
    return with_date(folder, base.date) if base.date else folder


def _check_template(base: PretrainedBase, folder: Path) -> None:
    """Raise BadInput for a chat template that does not end a turn where sampling stops, that writes
    today's date, or that writes none although the base has one."""
    from transformers import GenerationConfig

    from backdoor_assets.stages.sampling.answers import stop_ids

    tokenizer = load_tokenizer(folder)
    try:
        generation = GenerationConfig.from_pretrained(str(folder))
    except OSError:
        generation = None  # A base need not have one.
    check_end_of_turn(tokenizer, stop_ids(tokenizer, generation))
    question: Messages = [{"role": "user", "content": "Which one?"}]
    if base.date and base.date not in render(tokenizer, question, prompt=True):
        raise BadInput(
            f"{base.model}: the base of the profile has date={base.date!r}, and its chat template "
            "writes no date. Leave `date` out."
        )


def fetched_record(folder: Path) -> dict[str, Any]:
    """What `fetch` has written down."""
    return json.loads((folder / BASE).read_text(encoding="utf-8"))
