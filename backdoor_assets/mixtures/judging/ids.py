"""Verdicts of two judges, or by two wordings of a rubric, never mix."""

from __future__ import annotations

from collections.abc import Sequence

from backdoor_assets.mixtures.cells import Cell
from backdoor_assets.records import BadInput
from backdoor_assets.stages.judging.specs import judge_id


def check_one_judge(cells: Sequence[Cell]) -> None:
    """Raise BadInput, with the command that fixes it, if finished judgments of the cells are by
    different judges, or by different wordings of the rubrics that outcomes are counted from."""
    judged: dict[str, tuple[str, list[str]]] = {}
    for cell in cells:
        made = cell.artifact("judgments").manifest()
        if made is None or not {"judge", "rubrics", "outcomes"} <= made.identity.keys():
            continue
        counted = {outcome[1] for outcome in made.identity["outcomes"]}
        rubrics = [r for r in made.identity["rubrics"] if r["column"] in counted]
        judge = made.identity["judge"]
        name = f"{judge['name']} {judge.get('model', '')}".strip()
        key = judge_id({"judge": judge, "rubrics": rubrics})
        judged.setdefault(key, (name, []))[1].append(str(cell))
    if len(judged) < 2:
        return
    grid = cells[0].grid
    found = "; ".join(
        f"{name} ({key}): {', '.join(named[:3])}{' ...' if len(named) > 3 else ''}"
        for key, (name, named) in judged.items()
    )
    raise BadInput(
        f"{grid.folder.path / 'judgments'}: cells are judged by different judges or in different "
        f"words, and their rates do not mix: {found}. To judge all of them by the judge in force: "
        f"backdoor-assets --profile {grid.profile.name} demo --study {grid.study.name} --replace. "
        "Verdicts that are stored are used again. To see two judges side by side: backdoor-assets "
        "swap-judge --help."
    )
