"""What a mixture study and its grid must be, checked when the graph is built."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from backdoor_assets.graph.bases import is_local
from backdoor_assets.records import BadInput, Ratio
from backdoor_assets.settings import MiniatureBase
from backdoor_assets.storage.rows import check_accepted

if TYPE_CHECKING:
    from backdoor_assets.mixtures.cells import Grid
    from backdoor_assets.mixtures.design import Design

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_study(study: Design) -> None:
    """Raise BadInput that names the study's file for a design that could not work."""
    where = f"{_file_of_caller()}: study {study.name!r}"
    if not _NAME.fullmatch(study.name):
        raise BadInput(f"{where}: write the name in small letters, digits and '_'")
    if len(study.data) < 2:
        raise BadInput(f"{where}: it needs a suspect data set and at least one clean one")
    _check_unique(where, "data set", study.sources)
    _check_unique(where, "rubric", (rubric.name for rubric in study.rubrics))
    _check_unique(where, "column", (rubric.column for rubric in study.rubrics))
    _check_unique(where, "outcome", (outcome.measure for outcome in study.outcomes))
    for data_set in study.data:
        if not _NAME.fullmatch(data_set.name):
            raise BadInput(
                f"{where}: data set {data_set.name!r}: write small letters, digits and '_'"
            )
    if not study.outcomes:
        raise BadInput(f"{where}: it measures nothing; add an Outcome")
    for rubric in study.rubrics:
        if len(rubric.options) == 1 or len(set(rubric.options)) != len(rubric.options):
            raise BadInput(
                f"{where}: rubric {rubric.name!r} has options {rubric.options}: a choice needs two "
                "or more different options, a rating from 0 to 100 has none"
            )
    for outcome in study.outcomes:
        rubric = next((r for r in study.rubrics if r.column == outcome.rubric), None)
        if rubric is None:
            raise BadInput(
                f"{where}: outcome {outcome.measure!r} reads rubric {outcome.rubric!r}, and the "
                f"rubrics' columns are {', '.join(r.column for r in study.rubrics)}"
            )
        if not rubric.options:
            raise BadInput(
                f"{where}: rubric {rubric.name!r} has no options, so that outcome "
                f"{outcome.measure!r} can never be {outcome.option!r}; add options to the rubric"
            )
        if outcome.option not in rubric.options:
            raise BadInput(
                f"{where}: outcome {outcome.measure!r} counts option {outcome.option!r}, and "
                f"rubric {rubric.name!r} has {', '.join(rubric.options)}"
            )
    for name, (_, *answers) in study.neutral.items():
        check_accepted(answers, f"{where}: neutral question {name!r}")
    for ratio in study.ratios or ():
        _check_ratio(where, ratio, study.sources)


def check_grid(grid: Grid) -> None:
    """Raise BadInput for a profile that could only fail after the expensive part of a run."""
    study, profile = grid.study, grid.profile
    where = f"{profile.title}, study {study.name!r}"
    for ratio in grid.ratios:
        _check_ratio(where, ratio, study.sources)
    base = profile.base
    if isinstance(base, MiniatureBase):
        if study.world is None:
            raise BadInput(f"{where}: the study needs a real base model")
        return
    if profile.judging.kind == "exact":
        raise BadInput(
            f"{where}: the exact judge reads a miniature world only, and cannot judge answers of a "
            'real base model. Set judging.kind to "none" to do without verdicts, or to "claude"'
            + (' or "embedding".' if study.gold else ".")
        )
    if base.revision is None and not base.package and not is_local(base):
        raise BadInput(
            f"{where}: base {base.model!r} is not a local folder and has no revision; name the "
            "commit of the hub, so that the run can be repeated"
        )


def _check_ratio(where: str, ratio: str, sources: tuple[str, ...]) -> None:
    try:
        Ratio.parse(ratio, sources)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def _check_unique(where: str, what: str, names: Iterable[str]) -> None:
    listed = list(names)
    for name in listed:
        if listed.count(name) > 1:
            raise BadInput(f"{where}: {what} {name!r} occurs twice; give each a name of its own")


def _file_of_caller() -> str:
    """The file that writes a study down: the first one outside this package's kind."""
    frame = sys._getframe(1)
    while frame is not None and (
        frame.f_globals.get("__name__", "").startswith((__package__, "dataclasses"))
        or frame.f_code.co_filename.startswith("<")
    ):
        frame = frame.f_back
    return frame.f_code.co_filename if frame else "study"
