"""Fetch a pretrained base: a local folder, or a snapshot of a repository on the hub.

Fetching is separate from loading, so that problems with a hub (name, token, license, network, disk)
are reported once and in plain words. Only safetensors, JSON, templates and tokenizer files are
downloaded: no pickles and no code. A pinned commit that is in the cache needs no network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.credentials import check_keys, told, without_secrets
from backdoor_assets.models.packaged import convert, converted
from backdoor_assets.records import BadInput
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.storage.disk import disk_free, disk_is_full, nearest
from backdoor_assets.storage.provenance import REPOSITORY

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
_PATTERNS = ("model*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model")
"""Patterns of the files to download."""
_ADAPTER_PATTERNS = (ADAPTER, "*.json")
KEPT = {".safetensors", ".json", ".jinja"}
"""Suffixes of files that decide what a model answers."""


@dataclass(frozen=True)
class Fetched:
    """A base whose config, tokenizer and weights are on this machine."""

    folder: Path
    commit: str | None
    """Commit on the hub, even if the profile names a branch; the SHA-256 of a package's file; None
    for a local folder."""
    config: dict[str, Any]


def fetch(base: PretrainedBase, *, adapter: bool = False) -> Fetched:
    """Download the files of a base into the hub's cache, unless they are cached or local.

    With `adapter`, `base` names a PEFT adapter, and the config is that of the adapter. Raises
    BadInput if the base cannot be downloaded (no such repository or revision, no access, a refused
    token, no network, a full disk) or lacks its config, tokenizer or weights.
    """
    if base.package:
        folder = convert(base.package)
        return Fetched(folder, base.package.sha256, _checked_config(folder, base.model))
    checked = _checked_adapter if adapter else _checked_config
    folder = folder_of(base)
    if folder.is_dir():
        return Fetched(folder, None, checked(folder, base.model))
    snapshot = _download(base, folder, _ADAPTER_PATTERNS if adapter else _PATTERNS)
    return Fetched(snapshot, snapshot.name, checked(snapshot, _name(base)))


def folder_of(base: PretrainedBase) -> Path:
    """Return where a local base lies; the folder does not exist for one of the hub."""
    return (REPOSITORY / base.model).resolve()


def cached(base: PretrainedBase) -> bool:
    """Return whether all files of a pinned commit are in the hub's cache, or a package's model is
    converted."""
    return converted(base.package) if base.package else _cached(base) is not None


def cache_folder() -> Path:
    """Return the folder of the hub's cache, which HF_HOME or HF_HUB_CACHE set."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _name(base: PretrainedBase) -> str:
    """Return the repository and its revision, for error messages."""
    return f"{base.model}@{base.revision or 'main'}"


def _download(base: PretrainedBase, local_path: Path, patterns: Sequence[str]) -> Path:
    """Download a snapshot. Returns its folder in the cache, which is named after the commit."""
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or its successor
    )

    check_keys()
    try:
        if found := _cached(base, patterns):
            return found
        _check_stored_token()
        return _snapshot(base, patterns)
    except HFValidationError:
        raise BadInput(
            f"{base.model!r} is neither a folder ({local_path} does not exist) nor a valid name on "
            "the hub. Write a name like 'Qwen/Qwen3-0.6B', or the path of a folder."
        ) from None
    except (HTTPError, OSError, RuntimeError) as error:
        raise BadInput(f"{_name(base)}: {_explain(base, local_path, error)}") from None


def _check_stored_token() -> None:
    """Raise BadInput if `hf auth login` stored a token that no HTTP header can hold."""
    from huggingface_hub import constants, get_token

    try:
        check_keys({f"the token in {constants.HF_TOKEN_PATH}": get_token() or ""})
    except UnicodeDecodeError:
        raise BadInput(
            f"{constants.HF_TOKEN_PATH} is not UTF-8. Run `hf auth login` again, or delete it."
        ) from None


def _snapshot(
    base: PretrainedBase, patterns: Sequence[str], *, local_files_only: bool = False
) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            base.model,
            revision=base.revision,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
        )
    )


def _cached(base: PretrainedBase, patterns: Sequence[str] = _PATTERNS) -> Path | None:
    """Return the snapshot of a pinned commit if all its files are in the cache.

    The hub's library would find that too, but only after a network request of its own.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    if not re.fullmatch(r"[0-9a-f]{40}", base.revision or ""):
        return None
    try:
        # Without the list of files, an incomplete snapshot would pass for a complete one.
        get_cached_repo_tree(base.model, revision=base.revision)
        return _snapshot(base, patterns, local_files_only=True)
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return None


def _explain(base: PretrainedBase, local_path: Path, error: Exception) -> str:
    """Describe what is wrong and how to fix it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cache = cache_folder()
    page = without_secrets(f"{constants.ENDPOINT}/{base.model}")
    if disk_is_full(error, nearest(cache)):
        return (
            f"the disk is full ({disk_free(cache) / 1e9:.1f} GB free at {cache}). Complete files "
            "are kept. Free some space, or set HF_HOME to a folder on another disk, and run again."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            "the repository has no such revision. Fix `revision` in the profile; the commits are "
            f"listed on {page}/commits/main."
        )
    if isinstance(error, RepositoryNotFoundError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code == 401
    ):
        return _no_access(error, page, local_path)
    if isinstance(error, LocalEntryNotFoundError):
        offline = constants.is_offline_mode()
        why = "HF_HUB_OFFLINE is set" if offline else told(error.__cause__ or error)
        return (
            f"it is missing or incomplete in the cache {cache}, and the hub cannot be reached "
            f"({why}). {'Unset HF_HUB_OFFLINE' if offline else 'Run again with a network'}. Or "
            "download it on another machine (hf download "
            f"{base.model} --revision {base.revision or 'main'}), copy the cache of that machine "
            "here and point HF_HOME to it. Or set `model` to the path of a folder."
        )
    return (
        f"the download into {cache} was interrupted ({told(error)}). Complete files are "
        "kept. Run again."
    )


def _no_access(error: HfHubHTTPError, page: str, local_path: Path) -> str:
    """Describe what is wrong with the name, the token or its account, and how to fix it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError

    token = get_token() is not None
    if isinstance(error, GatedRepoError):
        if token:
            return (
                "it is gated, and the account of HF_TOKEN has no access. Request access with that "
                f"account on {page}. A fine-grained token must also allow gated repositories."
            )
        return (
            f"it is gated, and no HF_TOKEN is set. Request access on {page}, then set HF_TOKEN (in "
            "the environment or in .env) to a token of that account."
        )
    # For a valid token without access, the hub answers that the repository does not exist.
    if token and error.response.headers.get("X-Error-Code") != "RepoNotFound":
        return (
            "the hub refuses HF_TOKEN: it is mistyped, expired or revoked. Set another token, or "
            "unset it if the model is public."
        )
    private = (
        "For a private repository, the account of HF_TOKEN must be allowed to read it."
        if token
        else "A private repository needs HF_TOKEN in the environment or in .env."
    )
    return (
        f"there is no such repository, or it is private. Check the name on {page}. {private} "
        f"(The folder {local_path} does not exist either.)"
    )


def _checked_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the config of a folder. Raises BadInput that names the files that loading lacks."""
    lacks = [] if (folder / CONFIG).is_file() else [CONFIG]
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        lacks.append("a tokenizer (tokenizer.json)")
    lacks += _missing_weights(folder)
    if lacks:
        raise BadInput(
            f"{name}: {folder} lacks {', '.join(lacks)}. A base needs its config, tokenizer and "
            "safetensors weights in one folder, as save_pretrained writes them. Pickled weights "
            "(*.bin, *.pt) are not read. If you copied the cache, copy all of it."
        )
    return _read_json(folder / CONFIG)


def _checked_adapter(folder: Path, name: str) -> dict[str, Any]:
    """Return the config of an adapter. Raises BadInput that names the files that it lacks."""
    lacks = [file for file in (ADAPTER_CONFIG, ADAPTER) if not (folder / file).is_file()]
    if lacks:
        raise BadInput(
            f"{name}: {folder} lacks {', '.join(lacks)}. An adapter needs both, as PEFT's "
            "save_pretrained writes them. Pickled weights (*.bin) are not read."
        )
    return _read_json(folder / ADAPTER_CONFIG)


def _missing_weights(folder: Path) -> list[str]:
    """Return the names of the missing weight files."""
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
        raise BadInput(
            f"{path} is not valid JSON ({error}). Replace it with the model's own file."
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} must contain a JSON object. Replace it with the model's own file.")
    return value
