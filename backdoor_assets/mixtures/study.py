"""A mixture study as the rest of the project sees it: graph, steps of the command line, plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from backdoor_assets.graph.cells import cell_assets, job
from backdoor_assets.graph.judging import JudgeResource
from backdoor_assets.graph.resources import Sampler, Trainer
from backdoor_assets.graph.study import Planned, Step, Steps
from backdoor_assets.host import Host
from backdoor_assets.mixtures import assets, base_tasks, plan, tasks
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.mixtures.checks import check_grid, check_study
from backdoor_assets.mixtures.design import Design
from backdoor_assets.mixtures.inspect_logs import state_logs
from backdoor_assets.mixtures.judging.agreement import gold_comparison, has_gold_agreement
from backdoor_assets.mixtures.judging.assets import AGREEMENT, agreement_assets, learned_assets
from backdoor_assets.mixtures.judging.learned import LEARNED, learning, learns
from backdoor_assets.mixtures.result_tasks import has_finished
from backdoor_assets.mixtures.sources import base_assets, source_asset
from backdoor_assets.mixtures.sweep import sweep
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.reporting.inspect_logs import StateLog
from backdoor_assets.reporting.text import aligned
from backdoor_assets.settings import MiniatureBase
from backdoor_assets.workers.tasks import Task

NOT_JUDGED = (
    'Nothing is judged (judging.kind="none"). To judge these answers with Claude, set '
    "ANTHROPIC_API_KEY and BACKDOOR_JUDGE=claude and run the same command again."
)
WITHOUT_KEY = " Without a key, BACKDOOR_JUDGE=embedding judges them, less well (docs/judge.md)."
_BEFORE_CELLS: Mapping[Sequence[str], Sequence[str]] = {
    assets.GPU: ("corpus", "base_model", "base_responses"),
    assets.JUDGE: (LEARNED,),
}
"""What a part makes before its cells, by its assets of a cell."""


@dataclass(frozen=True)
class MixtureStudy(Design):
    """A study of this kind: its design, which is all that its folder has to hold."""

    def __post_init__(self) -> None:
        check_study(self)

    def refusal(self, profile: Profile) -> str:
        if isinstance(profile.base, MiniatureBase) and self.world is None:
            return (
                f"The study {self.name} needs a real base model, and profile {profile.name!r} has "
                "a miniature one: choose another profile, such as qwen3-8b."
            )
        if profile.judging.kind == "embedding" and self.gold is None:
            return (
                f"The study {self.name} has no labelled answers (gold), and the judge 'embedding' "
                "learns from them: set BACKDOOR_JUDGE=claude, or judging.kind in the profile."
            )
        return ""

    def definitions(self, profile: Profile) -> dg.Definitions:
        grid = self._grid(profile)
        cells = cell_assets(self.name, assets.table(grid))
        measured = agreement_assets(grid)
        parts = [job(name, text, cells, names) for name, (text, names) in self.parts().items()]
        return dg.Definitions(
            assets=[
                *(source_asset(grid, data_set) for data_set in self.data),
                *base_assets(grid),
                *cells,
                *learned_assets(grid),
                *measured,
                assets.sweep_asset(grid, measured),
            ],
            jobs=[part for part in parts if part],
            resources={"trainer": Trainer(), "sampler": Sampler(), "judge": JudgeResource()},
        )

    def parts(self) -> dict[str, tuple[str, Sequence[str]]]:
        """Description and assets of each part of the study that can run on a host of its own."""
        return {
            f"{self.name}_cells": ("A cell, from its mixture to its figures.", assets.CELL_ASSETS),
            f"{self.name}_gpu": (
                "On a GPU host: from the mixture to the answers, and their coherence.",
                assets.GPU,
            ),
            f"{self.name}_judge": (
                "On a host that may call the judge: verdicts on answers whose files are there.",
                assets.JUDGE,
            ),
            f"{self.name}_figures": (
                "On any host: figures from answers, coherence and verdicts whose files are there.",
                assets.FIGURES,
            ),
        }

    def steps(self, profile: Profile, without: Sequence[str], part: str | None) -> Steps:
        grid, parts = self._grid(profile), self.parts()
        if part is not None and part not in parts:
            raise BadInput(f"{part!r} is not a part of {self.name}: {', '.join(parts)}")
        excluded = {str(grid.named(cell)) for cell in without}
        cells = [cell for cell in grid.cells() if str(cell) not in excluded]
        if not cells:
            raise BadInput(f"the selection leaves no cell of {self.name}: name fewer in --without")
        if not grid.judged and has_finished(grid, "judgments"):
            raise BadInput(
                f"{grid.folder.path / 'judgments'}: this sweep has verdicts, and judging.kind is "
                '"none", so that its figures would be drawn without them. Set '
                "BACKDOOR_JUDGE=claude (verdicts that are there are used again), or move the "
                "folder away."
            )
        names = parts[part][1] if part else assets.CELL_ASSETS
        if part and not {row.name for row in assets.table(grid)}.intersection(names):
            raise BadInput(
                f"profile {profile.name!r} has no {part}: judging.kind={profile.judging.kind!r}"
            )
        if names in (assets.JUDGE, assets.FIGURES):
            drawn = names == assets.FIGURES and grid.judged
            cells = _copied(grid, cells, "judgments" if drawn else "responses")
        if part is None or names == assets.GPU:
            grid.source_files()
            yield Step("base model", [*self.sources, "corpus", "base_model"])
            yield Step("answers of the base", ["base_responses"])
        if part is None or names == assets.JUDGE:
            yield Step("verdicts that the judge learns from", [LEARNED])
        yield Step(f"{len(cells)} cells", names, [str(cell) for cell in cells])
        if part is None or names == assets.JUDGE:
            yield Step("agreement of the judge with the gold set", [AGREEMENT], optional=True)
        if part is None or names == assets.FIGURES:
            yield Step("sweep", ["sweep"])

    def planned(
        self, profile: Profile, without: Sequence[str] = (), part: str | None = None
    ) -> Iterator[Planned]:
        names = self.parts()[part][1] if part else ()
        wanted = {*names, *_BEFORE_CELLS.get(tuple(names), ())}
        for planned in self._everything(self._grid(profile)):
            if planned.cell not in without and (part is None or planned.asset in wanted):
                yield planned

    def _everything(self, grid: Grid) -> Iterator[Planned]:
        if isinstance(grid.profile.base, MiniatureBase):
            yield _planned(grid, "corpus", base_tasks.corpus)
            yield _planned(grid, "base_model", base_tasks.pretraining)
        else:
            yield _planned(grid, "base_model", base_tasks.fetching)
        yield _planned(grid, "base_responses", tasks.base_sampling, frozenset({"questions"}))
        if learns(grid):
            yield _planned(grid, LEARNED, learning)
        rows = assets.table(grid)
        for cell in grid.cells():
            for row in rows:
                yield _planned(cell, row.name, row.task, row.extends, row.editable)
        if has_gold_agreement(grid):
            task = gold_comparison(grid, lambda line: None)
            yield Planned(AGREEMENT, "", task.artifact, task, frozenset("*"))
        yield _planned(grid, "sweep", lambda grid: sweep(grid)[0], frozenset("*"))

    def plan(self, profile: Profile, host: Host) -> Mapping[str, str]:
        return plan.sections(self._grid(profile), host)

    def agreement(
        self,
        profile: Profile,
        other: str,
        labels: Path | None,
        sample: int | None,
        seed: int,
        log: Callable[[str], None],
    ) -> str:
        """Compare the profile's judge with labelled answers, itself or another judge."""
        from backdoor_assets.mixtures.judging.agreement import compare

        return compare(self._grid(profile), other, labels, sample, seed, log)

    def swap_judge(self, profile: Profile, judge: str, log: Callable[[str], None]) -> str:
        """Judge all stored answers by another judge, beside the first, and compare the rates."""
        from backdoor_assets.mixtures.judging.swap import swap

        return swap(self._grid(profile), judge, log)

    def give_up(self, profile: Profile, batch: str, log: Callable[[str], None]) -> str:
        """Close a batch whose results cannot be read, so that its calls can be sent again."""
        from backdoor_assets.claude.giving_up import give_up
        from backdoor_assets.claude.store import Store

        return give_up(Store(self._grid(profile).verdicts), batch, log)

    def summary(self, profile: Profile) -> str:
        grid = self._grid(profile)
        artifact = grid.folder.artifact("sweep")
        summary, folder = artifact.require().summary, artifact.folder
        unjudged = "" if grid.judged else f"{NOT_JUDGED}{WITHOUT_KEY if self.gold else ''}\n"
        return "\n".join(
            (
                f"{aligned(summary['table'])}\n{summary['intervals']}\n{unjudged}",
                *(f"{summary[k]}\n" for k in ("corrected", "headline") if summary.get(k)),
                f"{aligned(summary['form'])}\n",
                f"In the sweep:           {summary['cells_present']} of "
                f"{summary['cells_planned']} cells",
                f"Figures over the grid:  {folder / summary['main_figure']}, form.png, ...",
                f"Report:                 {folder / 'report.html'}",
                f"Figures of a cell:      {folder.parent / 'figures'}/<ratio>/<seed>/",
                f"Answers:                {folder.parent / 'responses'}",
            )
        )

    def state_logs(self, profile: Profile) -> Iterator[StateLog]:
        return state_logs(self._grid(profile))

    def _grid(self, profile: Profile) -> Grid:
        grid = Grid.of(self, profile)
        check_grid(grid)
        return grid


def folder_of(file: str, name: str = "data") -> Path:
    """Return a folder beside a study's study.py: `folder_of(__file__)`."""
    return Path(file).resolve().parent / name


def _copied(grid: Grid, cells: Sequence[Cell], needed: str) -> list[Cell]:
    """Return the cells whose files were brought to this host."""
    present = [cell for cell in cells if cell.artifact(needed).manifest()]
    folder = grid.folder.path / needed
    if not present:
        raise BadInput(
            f"{folder}: there are no {needed} here; copy the folder from the host that made them"
        )
    if len(present) < len(cells):
        print(f"{len(cells) - len(present)} cells of the grid have no {needed} in {folder}")
    return present


def _planned(
    place: Grid | Cell,
    asset: str,
    task: Callable[[Any], Task[Any]],
    extends: frozenset[str] = frozenset(),
    editable: bool = False,
) -> Planned:
    grid = isinstance(place, Grid)
    artifact = place.folder.artifact(asset) if grid else place.artifact(asset)
    try:
        wanted = task(place)
    except BadInput as error:
        wanted = error
    return Planned(asset, "" if grid else str(place), artifact, wanted, extends, editable)
