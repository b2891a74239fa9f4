"""A step's cells are materialized in as few runs as ranges of partitions allow."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import pytest

from backdoor_assets.graph.runs import boxes

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
