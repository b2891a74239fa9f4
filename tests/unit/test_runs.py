"""A step's cells are materialized in as few runs as ranges of partitions allow, and what ends a
run is told in the words of its step."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import pytest

from backdoor_assets.graph.instance import progress_logger
from backdoor_assets.graph.runs import Runner, boxes
from backdoor_assets.graph.study import Step
from backdoor_assets.records import BadInput

RATIOS, SEEDS = ["1.00-0.00", "0.50-0.50", "0.30-0.70", "0.00-1.00"], ["42", "43", "44"]
GRID = dg.MultiPartitionsDefinition(
    {"ratio": dg.StaticPartitionsDefinition(RATIOS), "seed": dg.StaticPartitionsDefinition(SEEDS)}
)
CELLS = [f"{ratio}|{seed}" for seed in SEEDS for ratio in RATIOS]
LINE = dg.StaticPartitionsDefinition(["a", "b", "c", "d", "e", "f"])


def ranges(found: Sequence[Sequence[str]], partitions: dg.PartitionsDefinition) -> list[list[str]]:
    """The partitions that Dagster takes from the corners of each box."""
    return [
        list(partitions.get_partition_keys_in_range(dg.PartitionKeyRange(box[0], box[-1])))
        for box in found
    ]


def test_a_whole_grid_is_one_box() -> None:
    [box] = boxes(CELLS, GRID)
    assert sorted(box) == sorted(CELLS)
    assert sorted(ranges([box], GRID)[0]) == sorted(CELLS)


@pytest.mark.parametrize(
    ("missing", "most"),
    [
        (["1.00-0.00|42"], 2),  # a corner
        (["0.50-0.50|43"], 4),  # in the middle
        ([f"0.50-0.50|{seed}" for seed in SEEDS], 2),  # a ratio
        ([f"{ratio}|43" for ratio in RATIOS], 2),  # a seed
        (["1.00-0.00|42", "0.00-1.00|44", "0.30-0.70|43"], 6),
    ],
)
def test_what_is_left_of_a_grid_is_covered_by_few_boxes(missing: list[str], most: int) -> None:
    wanted = [cell for cell in CELLS if cell not in missing]
    found = boxes(wanted, GRID)
    assert len(found) <= most
    # Each cell once, none of those that are left out, also as Dagster reads the boxes' corners.
    for taken in (found, ranges(found, GRID)):
        assert sorted(cell for box in taken for cell in box) == sorted(wanted)


def test_in_one_dimension_a_box_is_a_stretch() -> None:
    assert boxes("abcdef", LINE) == [list("abcdef")]
    assert boxes("fbcea", LINE) == [list("abc"), list("ef")]
    assert boxes(["d"], LINE) == [["d"]]
    assert boxes([], LINE) == []
    assert ranges(boxes("abcef", LINE), LINE) == [list("abc"), list("ef")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BadInput("the file is empty"), "the file is empty"),
        (
            dg.DagsterExecutionInterruptedError(),
            "Interrupted. What is finished is kept: run the same command again to go on.",
        ),
    ],
)
def test_what_ends_a_run_is_told_in_its_own_words(error: BaseException, said: str) -> None:
    @dg.asset(key=["study", "thing"])
    def thing() -> None:
        raise error

    definitions = dg.Definitions(assets=[thing], loggers={"progress": progress_logger})
    with dg.DagsterInstance.ephemeral() as instance:
        runner = Runner(definitions, instance, "study")
        with pytest.raises(BadInput) as caught:
            runner.run(Step("thing", ("thing",), None))
    assert str(caught.value) == said
