"""Which weights the name of a state stands for: a base, a checkpoint of a cell, a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdoor_assets.graph.bases import BASE, StudyBase, fetched_record, is_local
from backdoor_assets.models import hub
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput, BaseModel
from backdoor_assets.settings import MiniatureBase, PretrainedBase
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.storage.disk import given_path, read_text
from backdoor_assets.storage.folders import StudyFolder

ARTIFACTS = {1: ("organisms",), 2: ("adapters", "removals")}
"""What may hold the checkpoints of a cell, by the number of keys that the cell has."""
_SHOWN = 12
"""Names of states that an error lists."""


@dataclass(frozen=True)
class State:
    """A model that can be talked to."""

    name: str
    base: BaseModel
    adapter: Path | None = None

    def __str__(self) -> str:
        adapter = f" with adapter {self.adapter}" if self.adapter else ""
        return f"{self.name}: {self.base.location}{adapter}"


def base_location(profile: Profile, study: str) -> BaseModel:
    """Return where the weights of a study's base model lie. Raises BadInput when the base was not
    materialized yet."""
    artifact = StudyFolder(profile.name, study).artifact("base_model")
    base = profile.base
    needs_artifact = isinstance(base, MiniatureBase) or not is_local(base)
    if needs_artifact and artifact.manifest() is None:
        raise BadInput(
            f"{artifact.folder}: there is no base model. Materialize {study}/base_model in the UI, "
            f"or run `make demo STUDY={study} PROFILE={profile.name}`."
        )
    return StudyBase(base, artifact).location()


def find_state(name: str, profile: Profile, study: str) -> State:
    """Return the state of a name, as the help of `chat` describes it.

    Raises BadInput that says what there is, or what to materialize first.
    """
    if name == "base":
        return State(name, base_location(profile, study))
    folder = given_path(name, "STATE")
    if not folder.is_dir():
        folder = _cell_folder(name, profile, study)
    if (folder / BASE).is_file():
        folder = _fetched(folder)
        if (folder / "adapter_config.json").is_file():
            # That it belongs to this base was checked when it was fetched.
            return State(name, base_location(profile, study), folder)
    if (folder / "adapter_config.json").is_file():
        return State(name, _base_of_adapter(folder, profile, study), folder)
    if (folder / "config.json").is_file():
        return State(name, BaseModel(str(folder.resolve())))
    raise BadInput(
        f"{folder}: this is neither an adapter (adapter_config.json) nor a whole model "
        "(config.json)"
    )


def _cell_folder(name: str, profile: Profile, study: str) -> Path:
    """Return the folder of a checkpoint, or of a published organism."""
    cell, _, step = name.partition("@")
    keys = cell.split("|")
    root = StudyFolder(profile.name, study).path
    places = [root.joinpath(artifact, *keys) for artifact in ARTIFACTS.get(len(keys), ())]
    place = next((place for place in places if place.is_dir() and all(keys)), None)
    if place is None:
        known = _known(root)
        shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
        raise BadInput(
            f"{name!r}: no such folder, and no such state under {root}. Known states: base"
            f"{', ' * bool(known)}{shown}. To train more, run `make demo STUDY={study} "
            f"PROFILE={profile.name}`, or materialize the cell in the UI."
        )
    steps = sorted(
        int(path.name.removeprefix("checkpoint-"))
        for path in place.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    )
    if not steps:
        raise BadInput(f"{place}: it has no checkpoints yet; materialize this cell first")
    if step and step not in map(str, steps):
        found = ", ".join(map(str, steps))
        raise BadInput(f"{place}: there is no checkpoint of step {step!r}; its steps are {found}")
    return place / f"checkpoint-{step or steps[-1]}"


def _known(root: Path) -> list[str]:
    """Names of all cells under a study's folder that have been trained."""
    return [
        "|".join(path.relative_to(root / artifact).parts)
        for number, artifacts in ARTIFACTS.items()
        for artifact in artifacts
        for path in sorted((root / artifact).glob("/".join("*" * number)))
        if path.is_dir()
    ]


def _fetched(folder: Path) -> Path:
    """Return where the weights of a published state lie whose record `folder` holds."""
    record = fetched_record(folder)
    adapter = "base_model_name_or_path" in record["config"]
    published = PretrainedBase(record["model"], record["commit"])
    return hub.fetch(published, adapter=adapter).folder


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: broken JSON ({error}). Copy the folder here again.") from error
    if not isinstance(config, dict):
        raise BadInput(f"{path}: not an object. Copy the folder here again.")
    return config


def _base_of_adapter(adapter: Path, profile: Profile, study: str) -> BaseModel:
    """Return the model that an adapter was trained on, wherever the data folder is now.

    Raises BadInput when it is not on this machine: on another model of the same shape the adapter
    would answer without any error, and wrongly.
    """
    config = _config(adapter / "adapter_config.json")
    recorded = adapter / str(config.get("base_model_name_or_path"))  # absolute, or beside it
    places = [recorded]
    if profile.name in recorded.parts:  # under the data folder of the machine that trained it
        inside = recorded.parts[recorded.parts.index(profile.name) :]
        places.append(data_root().joinpath(*inside))
    found = next((place for place in places if place.is_dir()), None)
    try:
        base = base_location(profile, study)
    except BadInput:
        if found is None:
            raise
        return BaseModel(str(found))
    if found is not None and found.resolve() != Path(base.location).resolve():
        return BaseModel(str(found))
    # Without its folder the base is known by its name: a commit in another machine's cache.
    if found is None and recorded.name != Path(base.location).name:
        raise BadInput(
            f"{adapter}: this adapter was trained on {recorded}, which is not on this machine. "
            "Copy that folder here, or choose a state whose base is here."
        )
    return base
