"""The sweep's table says which interval each rate has."""

from __future__ import annotations

import pandas as pd

from backdoor_assets.mixtures.report import final_table, interval_note
from backdoor_assets.mixtures.statistics import T_SEEDS, WILSON, sweep_rates
from tests.unit.cells import BIRDS

MEASURES = ("19th_century", "old_bird_name", "neutral_correct")


def cells(seeds_by_ratio: dict[str, int]) -> pd.DataFrame:
    """Final rates of cells whose seeds differ a little."""
    return pd.DataFrame(
        [
            {
                "profile": "tiny", "ratio": ratio, "seed": seed, "measure": measure,
                "checkpoint": "checkpoint-10", "step": 10, "question_id": "all",
                "value": 0.5 + seed / 100, "low": 0.4, "high": 0.6, "method": WILSON, "n": 100,
            }
            for ratio, seeds in seeds_by_ratio.items()
            for seed in range(seeds)
            for measure in MEASURES
        ]
    )  # fmt: skip


def test_a_ratio_of_one_seed_is_marked_and_the_mark_explained() -> None:
    found = {"1.00-0.00-0.00": 3, "0.00-0.50-0.50": 1}
    counts = {
        (ratio, seed): {"suspect_rows": 4, "distinct_suspect_rows": 4}
        for ratio, seeds in found.items()
        for seed in range(seeds)
    }
    sweep = sweep_rates(cells(found), counts, "old_fraction")
    several, one = final_table(BIRDS, sweep)
    assert (several["ratio"], several["seeds"]) == ("1.00-0.00-0.00", "3")
    assert (one["ratio"], one["seeds"]) == ("0.00-0.50-0.50", "1")
    for measure in MEASURES:
        assert several[measure].startswith("0.51 [")
        assert several[measure].endswith("]")
        assert one[measure].endswith("]*")
    assert interval_note(sweep) == f"[low, high]: {T_SEEDS}; *: {WILSON}"
