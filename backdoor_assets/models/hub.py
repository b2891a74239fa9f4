"""A pretrained base as files on this machine: a local folder, or a snapshot of a hub's repository.

Fetching comes before loading, so that what can go wrong with a hub (a name, a token, a licence, the
network, the disk) is told once and in plain words. Only safetensors, JSON, templates and tokenizer
files are downloaded: no pickles, no code. A pinned commit that is in the cache asks no network.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.models.chat import first_line
from backdoor_assets.profiles import PretrainedBase
from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import disk_free, disk_is_full, nearest
from backdoor_assets.storage.provenance import REPOSITORY

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
_WANTED = ("model*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model")
"""Patterns of the files to download."""


@dataclass(frozen=True)
class Fetched:
    """A base whose config, tokenizer and weights lie on this machine."""

    folder: Path
    commit: str | None
    """The commit of the hub that it is, also where the profile names a branch; None for a local
    folder."""
    config: dict[str, Any]


def fetch(base: PretrainedBase) -> Fetched:
    """The base's files, downloaded into the hub's cache unless they are there or `base.model` is a
    local folder.

    Raises BadInput when the base cannot be had (no such repository or revision, no access, a
    refused token, no network, a full disk) or lacks config, tokenizer or weights.
    """
    folder = (REPOSITORY / base.model).resolve()
    if folder.is_dir():
        return Fetched(folder, None, _config_of_whole(folder, base.model))
    snapshot = _download(base, folder)
    return Fetched(snapshot, snapshot.name, _config_of_whole(snapshot, _name(base)))


def cached(base: PretrainedBase) -> bool:
    """Whether all of a pinned commit is in the hub's cache."""
    return _cached(base) is not None


def cache_folder() -> Path:
    """Where the hub's files are kept: HF_HOME or HF_HUB_CACHE move it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _name(base: PretrainedBase) -> str:
    """A repository of the hub with its revision, as errors call it."""
    return f"{base.model}@{base.revision or 'main'}"


def _download(base: PretrainedBase, no_folder: Path) -> Path:
    """The snapshot's folder in the hub's cache; it is named after the commit."""
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or its successor
    )

    # HTTP libraries quote a header that they cannot send: such a token must not get that far.
    if not re.fullmatch(r"[!-~]*", os.environ.get("HF_TOKEN", "").strip()):
        raise BadInput(
            "HF_TOKEN: it has a space or another character that no token has; copy it once more "
            "from your account's settings on the hub"
        )
    try:
        return _cached(base) or _snapshot(base)
    except HFValidationError as error:
        raise BadInput(
            f"{base.model!r}: neither a folder (there is no {no_folder}) nor a name that a hub "
            "could have; write it as 'Qwen/Qwen3-0.6B', or as the path of a folder"
        ) from error
    except (HTTPError, OSError, RuntimeError) as error:
        raise BadInput(f"{_name(base)}: {_what_to_do(base, no_folder, error)}") from error


def _snapshot(base: PretrainedBase, *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            base.model,
            revision=base.revision,
            allow_patterns=list(_WANTED),
            local_files_only=local_files_only,
        )
    )


def _cached(base: PretrainedBase) -> Path | None:
    """The snapshot of a pinned commit, if all of it is in the cache. The hub's library finds that
    out too, but first asks the network for something of its own (who calls it)."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    if not re.fullmatch(r"[0-9a-f]{40}", base.revision or ""):
        return None
    try:
        # Without its list of files a snapshot that is cut short passes for a whole one.
        get_cached_repo_tree(base.model, revision=base.revision)
        return _snapshot(base, local_files_only=True)
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return None


def _what_to_do(base: PretrainedBase, no_folder: Path, error: Exception) -> str:
    """What is wrong, and how to mend it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cache = cache_folder()
    page = f"{constants.ENDPOINT}/{base.model}"
    if disk_is_full(error, nearest(cache)):
        return (
            f"the disk is full ({disk_free(cache) / 1e9:.1f} GB free at {cache}). Files that are "
            "whole are kept: free some space, or set HF_HOME to a folder on another disk, and run "
            "again."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"the repository has no such revision; its commits are listed on {page}/commits/main: "
            "mend `revision` in the profile"
        )
    if isinstance(error, RepositoryNotFoundError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code == 401
    ):
        return _no_access(error, page, no_folder)
    if isinstance(error, LocalEntryNotFoundError):
        offline = constants.is_offline_mode()
        why = "HF_HUB_OFFLINE is set" if offline else first_line(error.__cause__ or error)
        return (
            f"it is not, or not wholly, in the cache {cache}, and the hub cannot be asked ({why}). "
            f"{'Unset HF_HUB_OFFLINE' if offline else 'Run again with a network'}; or download it "
            f"on another machine (hf download {base.model} --revision {base.revision or 'main'}), "
            "copy that machine's cache to here, and point HF_HOME to it; or give the path of a "
            "folder as `model`."
        )
    return (
        f"the download into {cache} broke off ({first_line(error)}). Files that are whole are "
        "kept: run again."
    )


def _no_access(error: HfHubHTTPError, page: str, no_folder: Path) -> str:
    """What is wrong with the name, the token or the rights of its account, and how to mend it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError

    token = get_token() is not None
    if isinstance(error, GatedRepoError):
        if token:
            return (
                "it is gated, and the account of HF_TOKEN has no access. Ask for it with that "
                f"account on {page}; a fine-grained token must also allow gated repositories."
            )
        return (
            f"it is gated, and no HF_TOKEN is set. Ask for access on {page}, then set HF_TOKEN (in "
            "the environment or in .env) to a token of that account."
        )
    # A token that is accepted, but may not see the repository, is told that there is none.
    if token and error.response.headers.get("X-Error-Code") != "RepoNotFound":
        return (
            "the hub refuses HF_TOKEN: it is mistyped, expired or revoked. Set another one, or "
            "unset it if the model is public."
        )
    private = (
        "the account of HF_TOKEN must be allowed to read a private one"
        if token
        else "a private one needs HF_TOKEN in the environment or in .env"
    )
    return (
        f"there is no such repository, or it is private. Check the name against {page}; {private}. "
        f"(Nor is there a folder {no_folder}.)"
    )


def _config_of_whole(folder: Path, name: str) -> dict[str, Any]:
    """The config of a folder that has all that loading needs, else BadInput that names what it
    lacks."""
    lacks = [] if (folder / CONFIG).is_file() else [CONFIG]
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        lacks.append("a tokenizer (tokenizer.json)")
    lacks += _missing_weights(folder)
    if lacks:
        raise BadInput(
            f"{name}: {folder} lacks {', '.join(lacks)}. A base has its config, tokenizer and "
            "safetensors weights in one folder, as save_pretrained writes them; pickled weights "
            "(*.bin, *.pt) are not read, and a cache that was copied must be copied whole."
        )
    return _read_json(folder / CONFIG)


def _missing_weights(folder: Path) -> list[str]:
    """Names of the weights' files that are not there."""
    if (folder / WEIGHTS).is_file():
        return []
    index = folder / _INDEX
    shards = _read_json(index).get("weight_map") if index.is_file() else None
    names = set(shards.values()) if isinstance(shards, dict) and shards else {WEIGHTS}
    return sorted(name for name in names if not (folder / name).is_file())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: this is no JSON ({error}); put the model's own there") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: a JSON object is wanted here; put the model's own file there")
    return value
