"""Write settings as a reader can check them: as Python literals, and as the TOML of a profile."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def literal(value: Any) -> str:
    """Return the value as Python would write it; a function by its full name, without an address
    in memory."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = (f"{f.name}={literal(getattr(value, f.name))}" for f in fields(value) if f.repr)
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, functools.partial):
        arguments = [*map(literal, value.args)]
        arguments += [f"{name}={literal(entry)}" for name, entry in value.keywords.items()]
        return f"partial({', '.join([literal(value.func), *arguments])})"
    if isinstance(value, Mapping):
        entries = (f"{literal(key)}: {literal(entry)}" for key, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, tuple):
        inside = ", ".join(map(literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if hasattr(value, "__qualname__"):
        module = getattr(value, "__module__", None)
        return f"{module}.{value.__qualname__}" if module else value.__qualname__
    return repr(value)


def lines(entries: Iterable[tuple[str, Any]]) -> str:
    """Return one `name = literal` per line."""
    return "\n".join(f"{name} = {literal(value)}" for name, value in entries)


def profile_table(profile: Any, parents: Mapping[str, Any]) -> str:
    """Return the table of a profiles.toml that makes this profile from whichever of the named
    `parents` differs least from it; "" where it is one of them unchanged."""
    if parents.get(profile.name) == profile:
        return ""
    tables = {
        name: [*_changes(profile, parent, "")]
        for name, parent in parents.items()
        if name != profile.name
    }
    extended = min(tables, key=lambda name: len(tables[name]))
    head = [f"[{_key(profile.name)}]", f"extends = {_toml(extended)}"]
    return "\n".join([*head, *tables[extended]])


def _changes(record: Any, parent: Any, prefix: str) -> Iterable[str]:
    """Yield a line of TOML for each field that differs, those of nested settings one by one."""
    for entry in fields(record):
        value, before = getattr(record, entry.name), getattr(parent, entry.name)
        if value == before or not entry.compare or (not prefix and entry.name == "name"):
            continue
        if is_dataclass(value) and type(value) is type(before):
            yield from _changes(value, before, f"{prefix}{entry.name}.")
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if inner != before.get(key):
                    yield f"{prefix}{entry.name}.{_key(key)} = {_toml(inner)}"
        else:
            yield f"{prefix}{entry.name} = {_toml(value)}"


def _toml(value: Any) -> str:
    """Return a value of TOML; None is "none", as a profile writes it."""
    if is_dataclass(value) and not isinstance(value, type):
        given = [(f.name, getattr(value, f.name)) for f in fields(value)]
        kind = type(value).__name__.removesuffix("Base").lower()
        chosen = [("kind", kind)] if type(value).__name__.endswith("Base") else []
        return f"{{ {', '.join(f'{k} = {_toml(v)}' for k, v in [*chosen, *given])} }}"
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _key(name: str) -> str:
    """Return a key of TOML, in quotes where it needs them."""
    return name if all(c.isalnum() or c in "-_" for c in name) else json.dumps(name)
