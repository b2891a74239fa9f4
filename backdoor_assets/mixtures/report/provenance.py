"""What the report of a grid says of how it was made: costs, provenance, and the commands that make
it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from backdoor_assets.mixtures.cells import Grid, SweepSpec
from backdoor_assets.mixtures.report.design import missing_cells
from backdoor_assets.profiles import PROFILES
from backdoor_assets.reporting import provenance as made
from backdoor_assets.reporting.literals import profile_table
from backdoor_assets.reporting.pages import Block, Facts, Table
from backdoor_assets.storage.manifest import Manifest
from backdoor_assets.storage.provenance import provenance as this_run

BASE_ASSETS = "corpus", "base_model", "base_responses"
CELL_ASSETS = "mixed_dataset", "adapters", "responses", "coherence", "judgments", "figures"
COUNTS = {
    "base_model": {"seconds": "seconds of pretraining"},
    "base_responses": {"answers": "answers of the base to open questions"},
    "mixed_dataset": {"rows": "rows of fine-tuning data"},
    "adapters": {
        "steps": "optimizer steps",
        "tokens": "tokens trained on",
        "seconds": "seconds of training",
    },
    "responses": {
        "answers": "answers to open questions",
        "probe_answers": "answers to the narrow and the neutral questions",
        "seconds": "seconds of sampling",
    },
    "judgments": {
        "judgments": "answers with verdicts",
        "without_verdict": "answers without a verdict",
        "verdicts_reused": "verdicts of an earlier run that were used again",
    },
}
"""What the summaries of artifacts count, in words."""
ENVIRONMENT = {
    "kind": "BACKDOOR_JUDGE",
    "transport": "BACKDOOR_JUDGE_TRANSPORT",
    "model": "BACKDOOR_JUDGE_MODEL",
    "max_cost_usd": "BACKDOOR_MAX_COST_USD",
}
"""Settings of the judge that a variable of the environment can change."""


def finished(spec: SweepSpec) -> dict[str, list[Manifest]]:
    """Return the manifests of what the grid was made from, by asset; one that is not on this
    machine is left out."""
    places = {name: [spec.grid.folder.artifact(name)] for name in BASE_ASSETS}
    for name in CELL_ASSETS:
        places[name] = [entry.cell.artifact(name) for entry in spec.cells]
    return {
        name: [manifest for place in group if (manifest := place.manifest()) is not None]
        for name, group in places.items()
    }


def costs(spec: SweepSpec, manifests: made.Finished) -> list[Block]:
    """Return what was paid for verdicts, and what the stages counted."""
    return [_paid(spec.grid), made.costs_table(manifests, COUNTS)]


def _paid(grid: Grid) -> str:
    if grid.profile.judging.kind != "claude":
        return "No call to a paid judge was made: verdicts cost nothing."
    from backdoor_assets.claude.bill import paid

    return paid(grid.verdicts)


def provenance(spec: SweepSpec, manifests: Mapping[str, list[Manifest]]) -> list[Block]:
    """Return hashes, versions, commits and dates."""
    entries = {"Profile": spec.grid.profile.name}
    for name in ("base_model", "judgments"):
        for manifest in manifests.get(name, [])[:1]:
            entries |= _identified(name, manifest)
    hashes: dict[str, list[str]] = {}
    for manifest in manifests["mixed_dataset"]:
        for source, digest in manifest.identity["sources"].items():
            hashes.setdefault(source, [])
            hashes[source] += [digest] if digest not in hashes[source] else []
    rows = [[source, ", ".join(found)] for source, found in hashes.items()]
    return [
        Facts(entries),
        Table("Data sets", ["data set", "SHA-256"], rows),
        made.artifacts_table(manifests),
        made.packages_table(manifests),
    ]


def _identified(name: str, manifest: Manifest) -> dict[str, str]:
    if name == "judgments":
        judge = dict(manifest.identity["judge"])
        name, model = judge.pop("name"), judge.pop("model", "")
        if known := manifest.summary.get("judge_id"):
            judge["id"] = known
        more = "".join(f"; {key}: {value}" for key, value in judge.items())
        return {"Judge": f"{name}: {model}{more}"}
    reference, summary = manifest.reference(), manifest.summary
    fetched = "commit" in summary
    where = f"{summary['model']}, commit {summary['commit']}" if fetched else "pretrained here"
    return {"Base": f"{where}; SHA-256 of its files' hashes {reference['content']}"}


def reproduce(spec: SweepSpec) -> list[Block]:
    """Return the commands that make the same numbers in a fresh folder."""
    study, profile = spec.grid.study, spec.grid.profile
    known = {name: Grid.of(study, built_in).profile for name, built_in in PROFILES.items()}
    exports = {}
    if profile.judging.kind != "none":  # The environment of whoever types this may ask for another.
        fields = ENVIRONMENT if profile.judging.kind == "claude" else ("kind",)
        for field in fields:
            value = getattr(profile.judging, field)
            exports[ENVIRONMENT[field]] = "none" if value is None else str(value)
    if profile.name in known:
        known[profile.name] = replace(known[profile.name], judging=profile.judging)
    for variable in study.path_variables:
        if value := os.environ.get(variable):
            exports[variable] = value
    table = profile_table(profile, known)
    commit = this_run()["commit"]
    return made.reproduce(study.name, profile.name, commit, table, exports, missing_cells(spec))
