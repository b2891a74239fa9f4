"""The tasks of what is made of a cell's answers besides verdicts: their coherence, figures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backdoor_assets.mixtures.cells import Cell, FiguresSpec, Grid
from backdoor_assets.mixtures.tasks import Identity, Recorded, stage_identity
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.coherence import COHERENCE, CoherenceSpec
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.stages.specs import PROBES, RESPONSES
from backdoor_assets.storage.hashing import text_hash
from backdoor_assets.storage.identity import changes
from backdoor_assets.storage.manifest import MANIFEST
from backdoor_assets.workers.tasks import Task


def coherence_identity(cell: Cell, recorded: Recorded = None) -> Identity:
    grid = cell.grid
    return {
        **stage_identity("coherence", cell),
        "base": grid.base.identity(recorded),
        "responses": cell.artifact("responses").require().reference(),
        "precision": grid.profile.sampling.precision,
    }


def coherence(cell: Cell) -> Task[CoherenceSpec]:
    identity, place = coherence_identity(cell), cell.artifact("coherence")
    before, earlier = place.manifest(), None
    if before and not place.remake_requested and not place.damage(before):
        changed = set(changes(before.identity, identity))
        earlier = place.folder / COHERENCE if changed == {"responses"} else None
    spec = CoherenceSpec(
        cell,
        cell.grid.base.location(),
        cell.artifact("responses").folder / RESPONSES,
        cell.grid.profile.sampling.precision,
        earlier,
    )
    return Task(place, identity, spec)


def figures_identity(cell: Cell, recorded: Recorded = None) -> Identity:
    judged, scored = cell.grid.judged, is_scored(cell.grid)
    return {
        **stage_identity("figures", cell, [CODE_VERSIONS["statistics"], CODE_VERSIONS["figures"]]),
        **({"judgments": cell.artifact("judgments").require().reference()} if judged else {}),
        "responses": cell.artifact("responses").require().reference(),
        **({"coherence": cell.artifact("coherence").require().reference()} if scored else {}),
        "obsolete_names": text_hash(cell.grid.study.suspect_file),
    }


def figures(cell: Cell) -> Task[FiguresSpec]:
    responses = cell.artifact("responses").folder
    judgments = cell.artifact("judgments").folder / JUDGMENTS
    coherence = cell.artifact("coherence").folder / COHERENCE
    spec = FiguresSpec(
        cell,
        responses / RESPONSES,
        responses / PROBES,
        judgments if cell.grid.judged else None,
        coherence if is_scored(cell.grid) else None,
    )
    return Task(cell.artifact("figures"), figures_identity(cell), spec)


def is_scored(grid: Grid) -> bool:
    """Whether any answers have been scored by the base. None have where finished answers of an
    earlier version were copied to a host without the base."""
    return has_finished(grid, "coherence")


def has_finished(grid: Grid, asset: str) -> bool:
    """Whether an asset is finished for any cell on this machine. Asked for every cell, so that it
    looks no further than the first."""
    return any((seed / MANIFEST).exists() for seed in _folders(grid.folder.path / asset))


def _folders(asset: Path) -> Iterator[Path]:
    """Yield the folders of an asset's cells, without listing them all first."""
    with suppress(OSError), os.scandir(asset) as ratios:
        for ratio in ratios:
            with suppress(OSError), os.scandir(ratio) as seeds:
                yield from map(Path, seeds)
