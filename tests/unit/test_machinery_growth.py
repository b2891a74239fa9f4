"""What the machinery does per cell does not grow with the number of cells.

Calls are counted, not seconds, so that the tests say the same on a busy machine.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import dagster as dg
import pytest

from backdoor_assets.graph.runs import Runner
from backdoor_assets.graph.status import states
from backdoor_assets.graph.study import Step
from backdoor_assets.mixtures import assets
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.sweep import sweep
from backdoor_assets.profiles import Profile
from backdoor_assets.workers.tasks import here
from benchmarks.idle_study import STAGES, definitions_of, idle_study, make_base, profile_of

SIZES = 5, 10, 25
NOT_COUNTED = "<frozen "
"""Python's own checks of types: Dagster has the metadata of all cells so far checked with each cell
that is recorded, which takes a millisecond at 5,000 cells."""


def calls(work: Callable[[], Any]) -> Counter[str]:
    """Count the calls of each Python function while something is done."""
    counted = Counter[str]()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            counted[f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}"] += 1

    # What other tests have left is not to be taken apart meanwhile.
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return counted


def growing(work: Callable[[int], Any]) -> dict[str, tuple[float, float]]:
    """Return functions that a cell of a larger grid calls more often, with the calls that one cell
    more adds to a small grid and to the larger one."""
    work(SIZES[0])  # fills caches
    few, some, many = (calls(lambda n=n: work(n)) for n in SIZES)
    found = {}
    for name in many:
        before = (some[name] - few[name]) / (SIZES[1] - SIZES[0])
        after = (many[name] - some[name]) / (SIZES[2] - SIZES[1])
        if after > 1.3 * before + 0.5 and not name.startswith(NOT_COUNTED):
            found[name] = before, after
    return found


def finish(profile: Profile) -> None:
    """Make all cells of a grid without Dagster."""
    grid = Grid.of(idle_study(), profile)
    make_base(profile)
    for row in assets.table(grid):
        made = [*here(STAGES[row.name], [row.task(cell) for cell in grid.cells()])]
        assert not [outcome.error for outcome in made if outcome.error]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Grids of three sizes, each finished in a data folder of its own."""
    root = tmp_path_factory.mktemp("grids")
    with pytest.MonkeyPatch.context() as patch:

        def at(cells: int) -> Profile:
            patch.setenv("BACKDOOR_DATA", str(root / str(cells)))
            return profile_of(cells)

        for cells in SIZES:
            finish(at(cells))
        yield at


def test_state_of_a_cell_costs_the_same_in_a_larger_grid(finished: Any) -> None:
    def plan(cells: int) -> Counter[str]:
        return Counter(state.kind for state in states(idle_study(), finished(cells)))

    assert plan(SIZES[0])["finished"] == 6 * SIZES[0] + 3
    assert not growing(plan)


def test_a_cell_of_the_sweep_costs_the_same_in_a_larger_grid(finished: Any) -> None:
    def assemble(cells: int) -> None:
        _, missing = sweep(Grid.of(idle_study(), finished(cells)))
        assert not missing

    assert not growing(assemble)


def test_recording_a_cell_costs_the_same_in_a_larger_grid(finished: Any) -> None:
    def record(cells: int) -> None:
        keys = [str(cell) for cell in Grid.of(idle_study(), finished(cells)).cells()]
        with dg.DagsterInstance.ephemeral() as instance:
            runner = Runner(definitions_of(cells), instance, "birds")
            assert runner.run(Step("mixtures", ["mixed_dataset"], keys)) == set()

    assert not growing(record)
