"""Which results are finished, missing, or out of date, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from backdoor_assets.graph.study import Planned, Study
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.storage.identity import changes, essential
from backdoor_assets.storage.manifest import Manifest

Kind = Literal["finished", "missing", "to extend", "out of date"]


@dataclass(frozen=True)
class State:
    """The state of one artifact. What is to be extended keeps all that is finished of it; what is
    out of date would be replaced."""

    asset: str
    cell: str
    kind: Kind
    why: str = ""
    inherited: bool = False
    """Whether it is so only because what it was made from is."""

    @property
    def place(self) -> str:
        return f"{self.asset} {self.cell}".strip()


def states(
    study: Study, profile: Profile, without: Sequence[str] = (), part: str | None = None
) -> Iterator[State]:
    """Yield the state of every artifact of a study, in the order of the graph, but for the cells of
    `without`; of one `part` of the study if it is given.

    What was made from something that will be replaced or extended will be, too. Raises BadInput for
    an artifact that cannot be read.
    """
    renewed: dict[str, State] = {}
    for planned in study.planned(profile, without, part):
        before = planned.artifact.manifest()
        state, changes_content = _state(planned, before)
        if before is None:
            yield state
            continue
        if renewed and (source := _first(renewed, before.identity)):
            kind: Kind = "to extend" if "*" in planned.extends else source.kind
            if state.kind == "finished" or (kind == "out of date" != state.kind):
                how = "replaced" if source.kind == "out of date" else "extended"
                why = f"its {source.asset} would be {how}"
                state, changes_content = replace(state, kind=kind, why=why, inherited=True), True
        if changes_content:
            renewed |= dict.fromkeys(before.hashes(), state)
        yield state


def _first(renewed: Mapping[str, State], value: Any) -> State | None:
    """Return the first state whose content an identity, or a part of it, names by its hash."""
    if isinstance(value, str):
        return renewed.get(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for part in parts if (found := _first(renewed, part))), None)


def _state(planned: Planned, before: Manifest | None) -> tuple[State, bool]:
    """Return the state of an artifact by itself, and whether its content will change."""

    def state(kind: Kind, why: str = "") -> State:
        return State(planned.asset, planned.cell, kind, why)

    task = planned.task
    if before is None:
        return state("missing"), False
    if isinstance(task, BadInput):
        return state("to extend", f"waits for its inputs ({str(task).splitlines()[0]})"), False
    if task.find() is not None:
        return state("finished"), False
    why = task.artifact.why_again(task.identity)
    changed = changes(before.identity, task.identity)
    extends = planned.extends
    if "*" in extends or task.artifact.remake_requested:
        return state("to extend", why), False
    if not changed:
        # A damaged artifact is made again from the same inputs. Edits by hand would be lost.
        return state("out of date" if planned.editable else "to extend", why), planned.editable
    kept = all(_within(key, extends) for key in changed)
    if kept and not _drops(essential(before.identity), essential(task.identity)):
        return state("to extend", why), True
    return state("out of date", why), True


def _drops(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether questions or rubrics are missing that a finished result has, or samples of one."""
    for key in ("questions", "rubrics"):
        old, new = before.get(key), now.get(key)
        if not (isinstance(old, list) and isinstance(new, list)):
            continue
        if not all(any(_covers(entry, known) for entry in new) for known in old):
            return True
    return False


def _covers(new: Any, old: Any) -> bool:
    """Whether an entry is as it was, with at least as many samples."""
    if not (isinstance(new, dict) and isinstance(old, dict) and "samples" in old):
        return new == old
    fewer = new.get("samples", 0) < old["samples"]
    return not fewer and {**new, "samples": 0} == {**old, "samples": 0}


def _within(key: str, extends: frozenset[str]) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in extends)


def table(study: Study, profile: Profile) -> str:
    """Return counts of states by asset, and why results are out of date, as lines of text."""
    found = list(states(study, profile))
    counts: dict[str, Counter[str]] = {}
    for state in found:
        counts.setdefault(state.asset, Counter())[state.kind] += 1
    width = max((len(asset) for asset in counts), default=0)
    lines = [
        f"  {asset:<{width}}  "
        + ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        for asset, kinds in counts.items()
    ]
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for state in found:
        if state.kind in ("to extend", "out of date"):
            reasons.setdefault((state.asset, state.kind, state.why), []).append(state.cell)
    for (asset, kind, why), cells in reasons.items():
        named = f" ({', '.join(cells[:3])}{', ...' if len(cells) > 3 else ''})" if cells[0] else ""
        lines.append(f"  {asset}{named} {kind}: {why}")
    return "\n".join(lines)
