"""Which results are finished, missing, or out of date, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from backdoor_assets.graph.study import Planned, Study
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.storage.identity import changes, essential

Kind = Literal["finished", "missing", "to extend", "out of date"]


@dataclass(frozen=True)
class State:
    """The state of one artifact. What is to be extended keeps all that is finished of it; what is
    out of date would be replaced."""

    asset: str
    cell: str
    kind: Kind
    why: str = ""

    @property
    def place(self) -> str:
        return f"{self.asset} {self.cell}".strip()


def states(study: Study, profile: Profile) -> Iterator[State]:
    """Yield the state of every artifact of a study, in the order of the graph.

    An artifact whose inputs are finished, though out of date, counts as finished: it is as its
    inputs are. Raises BadInput for an artifact that cannot be read.
    """
    for planned in study.planned(profile):
        kind, why = _state(planned)
        yield State(planned.asset, planned.cell, kind, why)


def _state(planned: Planned) -> tuple[Kind, str]:
    task, before = planned.task, planned.artifact.manifest()
    if before is None:
        return "missing", ""
    if isinstance(task, BadInput):
        return "to extend", f"waits for its inputs ({str(task).splitlines()[0]})"
    if task.find() is not None:
        return "finished", ""
    why = task.artifact.why_again(task.identity)
    changed = changes(before.identity, task.identity)
    extends = planned.extends
    if "*" in extends or task.artifact.remake_requested:
        return "to extend", why
    if not changed:
        # A damaged artifact is made again from the same inputs. Edits by hand would be lost.
        return ("out of date" if planned.editable else "to extend"), why
    kept = all(_within(key, extends) for key in changed)
    if kept and not _drops(essential(before.identity), essential(task.identity)):
        return "to extend", why
    return "out of date", why


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
