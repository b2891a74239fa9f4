"""A user's own profiles: a TOML file in which each table changes another profile.

    [qwen3-8b-lr1e-4]
    extends = "qwen3-8b"
    training.learning_rate = 1e-4

A table may set any field of a profile. Fields of nested settings are changed one by one; a table
with a `kind`, such as `base = { kind = "pretrained", model = "...", revision = "..." }`, takes the
place of the whole. TOML has no null: write "none" for a field that may be None.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import read_text

Record = TypeVar("Record")

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_QUOTES = 'A name with dots is written in quotes: ["llama-3.1-8b-mine"].'
_LARGEST = 2**63 - 1
"""Of the whole numbers that tables and random generators take."""
_UNSETS: Mapping[str, tuple[str, Any]] = {
    "epochs": ("max_steps", None),
    "max_steps": ("epochs", None),
    "save_steps": ("save_at", ()),
}
"""Setting one of these fields unsets another, which the extended profile may have set."""
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    NoneType: '"none"',
}


def read_profiles(path: Path, built_in: Mapping[str, Record]) -> dict[str, Record]:
    """Return the profiles of a file by name.

    Raises BadInput that names file, table and key for whatever does not make a profile.
    """
    tables = _tables(path)
    found: dict[str, Record] = {}
    chosen: dict[str, frozenset[str]] = {}

    def build(name: str, extended_by: tuple[str, ...]) -> Record:
        if name in built_in:
            return built_in[name]
        if name not in found:
            changes = dict(tables[name])
            parent = changes.pop("extends", None)
            known = [*built_in, *(other for other in tables if other != name)]
            if parent is None:
                text = f"it has no `extends`; name the profile that it changes. {_QUOTES}"
                raise _wrong(path, name, text)
            if parent not in known:
                text = f"extends = {parent!r}: it must be one of {', '.join(known)}"
                raise _wrong(path, name, text)
            chain = (*extended_by, name)
            if parent in chain:
                circle = " -> ".join((*chain, parent))
                raise _wrong(path, name, f"`extends` goes in a circle: {circle}")
            base = build(parent, chain)
            try:
                chosen[name] = chosen.get(parent, frozenset()) | _chosen(changes)
                fixed = {"name": name, "origin": f"{path}: [{name}]", "chosen": chosen[name]}
                found[name] = _changed(base, changes, "", fixed)
            except BadInput as error:
                raise _wrong(path, name, str(error)) from error
        return found[name]

    for name in tables:
        if name in built_in:
            text = f"this is a built-in profile; choose another name and set extends = {name!r}"
            raise _wrong(path, name, text)
        if not _FOLDER_NAME.fullmatch(name):
            text = "the name becomes a folder; use at most 100 letters, digits, '.', '_' and '-'"
            raise _wrong(path, name, text)
    return {name: build(name, ()) for name in tables}


def _wrong(path: Path, table: str, text: str) -> BadInput:
    return BadInput(f"{path}: [{table}]: {text}")


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(read_text(path, "It is to hold your profiles."))
    except RecursionError as error:
        raise BadInput(f"{path}: its lists or tables are nested too deeply") from error
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{path}: broken TOML: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise BadInput(
                f"{path}: {name}: it stands outside a table; each profile is a table, such as\n"
                '[qwen3-8b-mine]\nextends = "qwen3-8b"\ntraining.learning_rate = 1e-4'
            )
    return tables


def _changed(
    record: Any, changes: Mapping[str, Any], where: str, fixed: Mapping[str, Any] | None = None
) -> Any:
    """Return a copy of a dataclass with some fields changed, and others `fixed` by the caller."""
    fixed = fixed or {}
    values = _values(type(record), changes, where, without=fixed, current=record)
    for key, (other, unset) in _UNSETS.items():
        if values.get(key) is not None and hasattr(record, other):
            values.setdefault(other, unset)
    return replace(record, **values, **fixed)


def _chosen(changes: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields of nested settings that a table sets, such as training.epochs, with those
    that it unsets."""
    tables = {outer: inner for outer, inner in changes.items() if isinstance(inner, dict)}
    keys = {(outer, key) for outer, inner in tables.items() for key in inner}
    others = {(outer, _UNSETS[key][0]) for outer, key in keys if key in _UNSETS}
    return frozenset(f"{outer}.{key}" for outer, key in keys | others)


def _values(
    cls: type,
    changes: Mapping[str, Any],
    where: str,
    without: Mapping[str, Any],
    current: Any = None,
) -> dict[str, Any]:
    """Return the changes as the types that the fields of a dataclass have."""
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name not in without}
    for key in changes:
        if key not in hints:
            owner = where.rstrip(".") or "a profile"
            raise BadInput(f"{where}{key}: no such field; {owner} has {', '.join(hints)}")
    return {
        key: _value(hints[key], value, f"{where}{key}", getattr(current, key, None))
        for key, value in changes.items()
    }


def _value(hint: Any, value: Any, where: str, current: Any) -> Any:
    """Return a value of the file as the type that a field has."""
    members = _members(hint)
    if NoneType in members and value == "none":
        return None
    records: dict[str, Any] = {_kind(m): m for m in members if is_dataclass(m)}
    if isinstance(value, str) and len(records) > 1 and value in records:
        value = {"kind": value}
    if records and isinstance(value, dict):
        return _record(records, value, where, current)
    for member in members:
        if get_origin(member) is Mapping and isinstance(value, dict):
            [_, inner] = get_args(member)
            own = {key: _value(inner, v, f"{where}.{key}", None) for key, v in value.items()}
            return {**(current or {}), **own}
        if (plain := _plain(member, value)) is not None:
            return plain
    raise BadInput(f"{where} = {value!r}: it must be {_describe(hint)}")


def _record(records: Mapping[str, Any], value: dict[str, Any], where: str, current: Any) -> Any:
    """Return nested settings: the current ones changed, or new ones where a `kind` chooses among
    several or there are none yet."""
    changes = dict(value)
    if len(records) > 1 and "kind" in changes:
        kind = changes.pop("kind")
        if kind not in records:
            raise BadInput(f"{where}.kind = {kind!r}: it must be {_quoted(records)}")
        cls = records[kind]
    elif current is not None:
        try:
            return _changed(current, changes, f"{where}.")
        except BadInput as error:
            others = [kind for kind, cls in records.items() if not isinstance(current, cls)]
            if others and not all(hasattr(current, key) for key in changes):
                text = f"{error}. To replace it, set {where}.kind = {_quoted(others)}"
                raise BadInput(text) from error
            raise
    else:
        [cls] = records.values()
    values = _values(cls, changes, f"{where}.", without={})
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    if lacking := [name for name in needed if name not in values]:
        raise BadInput(f"{where}: it lacks {', '.join(lacking)}")
    return cls(**values)


def _plain(hint: Any, value: Any) -> Any:
    """Return a value as text, number, truth value, one of several literals or tuple of these; None
    where it is no such thing."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value if value in arguments else None
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        items = [_plain(kind, item) for kind, item in zip(kinds, value, strict=False)]
        return tuple(items) if len(kinds) == len(value) and None not in items else None
    if type(value) is int and abs(value) > _LARGEST:
        return None
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    return value if type(value) is hint and hint is not float else None


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _kind(cls: Any) -> str:
    """PretrainedBase is chosen by kind = "pretrained"."""
    return cls.__name__.removesuffix("Base").lower()


def _describe(hint: Any) -> str:
    """What a field may be, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is Literal:
        return _quoted(arguments)
    if origin is tuple:
        each = "each of them " + _describe(arguments[0])
        return f"a list, {each}" if arguments[-1] is Ellipsis else f"{len(arguments)} items, {each}"
    if origin is Mapping:
        return f"a table whose values are {_describe(arguments[1])}"
    if is_dataclass(hint):
        return "a table of " + ", ".join(field.name for field in fields(hint))
    return _WORDS.get(hint, str(hint))


def _quoted(values: Any) -> str:
    return " or ".join(f'"{value}"' for value in values)
