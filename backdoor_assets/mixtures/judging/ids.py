"""Verdicts of two judges, or by two wordings of a rubric, never mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backdoor_assets.mixtures.cells import Cell
from backdoor_assets.records import BadInput
from backdoor_assets.stages.judging.specs import judge_id
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.folders import StudyFolder


def check_one_judge(cells: Sequence[Cell]) -> None:
    """Raise BadInput as `check_same_judge` does for the judgments of the cells."""
    places = {str(cell): cell.artifact("judgments") for cell in cells}
    swap = " To see two judges side by side: backdoor-assets swap-judge --help."
    check_same_judge(places, cells[0].grid.folder, "judgments", swap)


def check_same_judge(
    places: Mapping[str, Artifact], folder: StudyFolder, asset: str, more: str = ""
) -> None:
    """Raise BadInput, with the command that fixes it, if finished judgments (by cell) are by
    different judges, or by different wordings of the rubrics that outcomes are counted from."""
    judged: dict[str, tuple[str, list[str]]] = {}
    for cell, place in places.items():
        made = place.manifest()
        if made is None or not {"judge", "rubrics", "outcomes"} <= made.identity.keys():
            continue
        counted = {outcome[1] for outcome in made.identity["outcomes"]}
        rubrics = [r for r in made.identity["rubrics"] if r["column"] in counted]
        judge = made.identity["judge"]
        name = f"{judge['name']} {judge.get('model', '')}".strip()
        key = judge_id({"judge": judge, "rubrics": rubrics})
        judged.setdefault(key, (name, []))[1].append(cell)
    if len(judged) < 2:
        return
    found = "; ".join(
        f"{name} ({key}): {', '.join(named[:3])}{' ...' if len(named) > 3 else ''}"
        for key, (name, named) in judged.items()
    )
    raise BadInput(
        f"{folder.path / asset}: cells are judged by different judges or in different "
        f"words, and their rates do not mix: {found}. To judge all of them by the judge in force: "
        f"backdoor-assets --profile {folder.profile} demo --study {folder.study} --replace. "
        f"Verdicts that are stored are used again.{more}"
    )
