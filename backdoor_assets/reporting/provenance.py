"""What a report says of how its results were made, read from the manifests of their artifacts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from backdoor_assets.reporting.pages import Block, Code, Table


class Recorded(Protocol):
    """A manifest: what an artifact is, what is in it and how it was made."""

    @property
    def identity(self) -> dict[str, Any]: ...

    @property
    def summary(self) -> dict[str, Any]: ...

    @property
    def provenance(self) -> dict[str, Any]: ...


Finished = Mapping[str, Sequence[Recorded]]
"""Manifests of finished artifacts by the name of their asset, in the order of the work."""


def artifacts_table(finished: Finished) -> Table:
    """Return how many artifacts of each asset there are, by which code, when and where."""
    rows = []
    for asset, manifests in finished.items():
        if not manifests:
            continue
        made = sorted(str(m.provenance.get("made", "-"))[:16] for m in manifests)
        rows.append(
            [
                asset,
                str(len(manifests)),
                _each(_code(m.identity.get("code")) for m in manifests),
                _each(_short(m.provenance.get("commit")) for m in manifests),
                _each(m.provenance.get("device") for m in manifests),
                made[0].replace("T", " "),
                made[-1].replace("T", " "),
            ]
        )
    head = ["asset", "artifacts", "code version", "git commit", "device", "first", "last"]
    plus = "Times are UTC. A commit with + had uncommitted changes; -: none was recorded."
    return Table("Finished artifacts behind the numbers", head, rows, [plus])


def packages_table(finished: Finished) -> Table:
    """Return the versions of Python and of packages; several where artifacts differ in them."""
    provenances = [m.provenance for manifests in finished.values() for m in manifests]
    names = dict.fromkeys(name for p in provenances for name in p.get("packages", {}))
    rows = [["Python", _each(p.get("python") for p in provenances)]]
    rows += [[n, _each(p.get("packages", {}).get(n) for p in provenances)] for n in names]
    return Table("Environment", ["package", "version"], rows)


def costs_table(finished: Finished, counts: Mapping[str, Mapping[str, str]]) -> Table:
    """Return sums over artifacts of what their summaries count: `counts` holds the words for each
    count of each asset. Those that a summary does not have are left out."""
    rows = []
    for asset, names in counts.items():
        for name, words in names.items():
            found = [m.summary[name] for m in finished.get(asset, ()) if m.summary.get(name)]
            if found:
                rows.append([words, f"{sum(found):,.0f}", asset, str(len(finished[asset]))])
    head = ["what", "sum", "asset", "artifacts"]
    return Table("What the stages counted", head, rows)


def reproduce(
    study: str,
    profile: str,
    commit: str | None,
    table: str,
    exports: Mapping[str, str],
    without: Sequence[str] = (),
) -> list[Block]:
    """Return the commands that make the same results in a fresh data folder.

    `table` is the TOML of a profile that is not built in, `exports` the environment variables that
    decide results, `without` the cells of the grid that are not in the report.
    """
    lines = ["# In a clone of the repository:"]
    if commit is None:
        lines.append("# (no git commit was recorded: the code was not in a git checkout)")
    else:
        lines.append(f"git checkout {commit.removesuffix('+')}")
        if commit.endswith("+"):
            lines.append("# (files differed from this commit when the report was written)")
    lines.append('export BACKDOOR_DATA="$PWD/reproduction"')
    if table:
        lines += ["cat > reproduction.toml <<'END'", table, "END"]
        lines.append('export BACKDOOR_PROFILES="$PWD/reproduction.toml"')
    lines += [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    command = f"make demo STUDY={study} PROFILE={shlex.quote(profile)}"
    if without:
        cells = " ".join(f"'{cell}'" for cell in without)
        command += f' WITHOUT="{cells}"'
    lines.append(command)
    return [
        "These commands make the results again in a folder of their own. `make` installs the "
        "versions of packages that constraints.txt pins at that commit. Numbers are the same on "
        "the same kind of device with the same packages; on another one, training and sampling "
        "round differently, and single answers may differ.",
        Code("\n".join(lines), "Commands to reproduce the results"),
    ]


def _each(values: Any) -> str:
    """The distinct values, in the order in which they are found."""
    return ", ".join(dict.fromkeys("-" if value is None else str(value) for value in values))


def _code(version: Any) -> str | None:
    return ".".join(map(str, version)) if isinstance(version, list) else version


def _short(commit: str | None) -> str | None:
    return commit and commit[:10] + ("+" if commit.endswith("+") else "")
