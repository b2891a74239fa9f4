"""What of an identity decides a result, and how two identities differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backdoor_assets.storage.hashing import canonical, digest

# Keys that earlier versions wrote into identities although no result depends on them, by stage.
# A dot reaches into a nested mapping.
_NOT_DECISIVE: Mapping[str, tuple[str, ...]] = {
    # A guard: model and revision say what is fetched.
    "fetching": ("shape",),
    # A guard: which texts of the evaluation the rows must not hold.
    "mixing": ("forbidden",),
    # How the mixture was made is not what is trained on: the hash of its rows is there too.
    "training": (
        "mixture",
        "settings.gradient_checkpointing",
        "settings.max_length",
        "settings.offload",
    ),
    # How many answers are generated at once, and how many are wanted: `questions` says the latter.
    # A guard: when to warn of answers that are cut.
    "sampling": (
        "settings.max_cut",
        "settings.batch_size",
        "settings.samples",
        "settings.bird_samples",
        "settings.narrow_samples",
        "settings.neutral_samples",
    ),
}


_ABSENT = object()


def essential(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as JSON values, without the keys that decide nothing.

    `max_length` decides what is trained on only where rows are packed into sequences of that
    length; elsewhere it is a guard, since no row is ever cut.
    """
    kept = json.loads(canonical(identity))
    for path in _NOT_DECISIVE.get(str(kept.get("stage")), ()):
        if path == "settings.max_length" and kept.get("settings", {}).get("packing"):
            continue
        *parents, key = path.split(".")
        place = kept
        for parent in parents:
            place = place.get(parent, {})
        place.pop(key, None)
    return kept


def same(recorded: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Return whether two identities are of the same result."""
    return digest(essential(recorded)) == digest(essential(identity))


def changes(recorded: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Return the keys in which two identities differ, such as `settings.learning_rate`, sorted."""
    return sorted(_changes(essential(recorded), essential(identity), ""))


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> list[str]:
    found = []
    for key in before.keys() | now.keys():
        old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += _changes(old, new, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found
