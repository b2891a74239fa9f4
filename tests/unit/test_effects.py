"""Differences, half-effect doses and moments of emergence, against values worked out by hand or
known from the construction."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from backdoor_assets.mixtures import effects
from backdoor_assets.mixtures.rates import final_states
from backdoor_assets.mixtures.report import effect_tables
from backdoor_assets.statistics.contrasts import NEWCOMBE, against_base, against_control, holm
from backdoor_assets.statistics.doses import dose_response
from backdoor_assets.statistics.emergence import Run, half_rise, lag, onset, over_runs
from backdoor_assets.statistics.intervals import newcombe, wilson
from tests.unit.cells import BIRDS

STEPS = (0, 10, 20, 30, 40)


def test_the_interval_of_a_difference_is_newcombes_for_single_runs() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table II, 56/70 - 48/80: .0524 to .3339
    low, high = newcombe(wilson(56, 70), wilson(48, 80))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    found = against_control([56 / 70], [70], [48 / 80], [80])
    assert (found.low, found.high, found.method) == pytest.approx((low, high, NEWCOMBE))


def test_a_difference_over_seeds_pairs_them() -> None:
    # Differences .3, .4 and .5: standard error .1 / sqrt(3), t(0.975) with 2 degrees 4.30265
    found = against_control([0.4, 0.6, 0.8], [200] * 3, [0.1, 0.2, 0.3], [200] * 3)
    assert found.value == pytest.approx(0.4)
    assert found.high - found.value == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-5)
    assert found.p == pytest.approx(0.0202, abs=1e-4)
    with pytest.raises(ValueError, match="same seeds"):
        against_control([0.4], [9], [0.1, 0.2], [9, 9])


def test_a_difference_is_never_more_certain_than_its_answers() -> None:
    """Three seeds that agree by chance: the interval is that of 60 answers, and so is p."""
    found = against_control([0.5] * 3, [20] * 3, [0.4] * 3, [20] * 3)
    low, high = newcombe(wilson(30, 60), wilson(24, 60))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert 0.2 < found.p < 0.3
    assert found.detectable > 0.2
    assert against_base([0.1] * 3, [20] * 3, wilson(2, 20)).p == pytest.approx(1)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def _cells(curve: dict[str, list[float]], spread: float = 0.02) -> pd.DataFrame:
    """Pooled rates of three seeds by ratio, one per step; the base's are the same for all."""
    rows = [
        {
            "profile": "tiny", "ratio": ratio, "seed": seed, "measure": measure, "step": step,
            "checkpoint": f"checkpoint-{step}" if step else "base", "question_id": "all",
            "value": value + (spread * (seed - 2) if step else 0), "n": 400,
        }
        for measure in ("19th_century", "old_bird_name")
        for ratio, values in curve.items()
        for seed in (1, 2, 3)
        for step, value in zip(STEPS, values, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


CONTROL = "0.00-0.50-0.50"
DOSES = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
GRID = {
    f"{dose:.2f}-{(1 - dose) / 2:.2f}-{(1 - dose) / 2:.2f}": [
        0.05, *(0.05 + 0.6 * dose**2 * share for share in (0.0, 0.25, 1.0, 1.0))
    ]
    for dose in DOSES
}  # fmt: skip
MIXTURES = {
    (ratio, seed): {"distinct_suspect_rows": round(min(200, 400 * dose))}
    for ratio, dose in zip(GRID, DOSES, strict=True)
    for seed in (1, 2, 3)
}


def test_contrasts_of_a_grid() -> None:
    found = effects.all_contrasts(_cells(GRID))
    headline = found[found["measure"] == "19th_century"]
    control = headline[headline["against"] == "control"].set_index("ratio")
    assert list(control.index) == [ratio for ratio in GRID if ratio != CONTROL]
    assert control.loc["1.00-0.00-0.00", "value"] == pytest.approx(0.6)
    assert control.loc["1.00-0.00-0.00", "p_holm"] < 0.01
    assert control.loc["0.10-0.45-0.45", "low"] < 0 < control.loc["0.10-0.45-0.45", "high"]
    base = headline[headline["against"] == "base"].set_index(["ratio", "step"])
    assert len(base) == len(GRID) * 4
    assert base.loc[("1.00-0.00-0.00", 40), "value"] == pytest.approx(0.6)
    assert (found["p_holm"] >= found["p"] - 1e-12).all()


def test_a_control_seed_that_is_missing_leaves_the_pairs_that_are_there() -> None:
    cells = _cells(GRID)
    cells = cells[~((cells["ratio"] == CONTROL) & (cells["seed"] == 3))]
    found = effects.all_contrasts(cells)
    assert set(found.loc[found["against"] == "control", "seeds"]) == {2}
    none = cells[~(cells["ratio"] == CONTROL)]
    assert set(effects.all_contrasts(none)["against"]) == {"base"}


def test_half_effect_doses_of_a_square_response() -> None:
    """Half of x^2 is reached at sqrt(1/2), whether the dose is a share or, up to 200, rows."""
    fits = effects.fits(final_states(_cells(GRID)), MIXTURES, "19th_century")
    share = fits["fraction"]
    assert share.half_curve is not None
    assert share.half_curve.value == pytest.approx(math.sqrt(0.5), abs=0.01)
    assert share.half_curve.low < math.sqrt(0.5) < share.half_curve.high
    # Between .7 and .9 the square is a little more than its chord.
    assert share.half_monotone.value == pytest.approx(0.708, abs=0.005)
    assert share.curve is not None
    assert np.interp(0.5, *share.curve) == pytest.approx(0.05 + 0.6 * 0.25, abs=0.01)
    # 0, 40, 120 and 200 rows: the four largest ratios are one dose, and too few for a curve.
    assert fits["count"].doses.tolist() == [0, 40, 120, 200]
    assert fits["count"].half_curve is None
    table = effects.dose_table({"19th_century": fits})
    assert table[["axis", "fit"]].to_numpy().tolist() == [
        ["fraction", "curve"], ["fraction", "monotone"], ["count", "monotone"],
    ]  # fmt: skip


def test_a_curve_that_starts_above_zero_has_its_half_between_its_ends() -> None:
    doses = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    found = dose_response(doses, [[d - 0.01, d, d + 0.01] for d in doses], [[400] * 3] * 6)
    assert found is not None
    assert found.half_curve is not None
    assert found.half_curve.value == pytest.approx(0.75, abs=0.01)


def test_noise_alone_seldom_has_a_half_effect_dose() -> None:
    random = np.random.default_rng(0)
    studies = [
        [
            (random.binomial(200, random.normal(0.1, 0.02, 3).clip(0, 1)) / 200).tolist()
            for _ in DOSES
        ]
        for _ in range(60)
    ]
    found = [dose_response(DOSES, study, [[200] * 3] * 7, draws=50) for study in studies]
    assert sum(fit is not None for fit in found) <= 5


@pytest.mark.parametrize("rates", [[0.1] * 7, [0.1, 0.12, 0.1, 0.11, 0.1, 0.12, 0.11]])
def test_without_an_effect_there_is_no_half_of_it(rates: list[float]) -> None:
    seeds = [[rate - 0.02, rate, rate + 0.02] for rate in rates]
    assert dose_response(DOSES, seeds, [[200] * 3] * 7) is None


def test_a_response_that_falls_has_a_half_too() -> None:
    seeds = [[0.9 - 0.8 * dose + d for d in (-0.01, 0, 0.01)] for dose in DOSES]
    found = dose_response(DOSES, seeds, [[400] * 3] * 7)
    assert found is not None
    assert found.half_monotone.value == pytest.approx(0.5, abs=0.01)
    assert all(a >= b for a, b in pairwise(found.monotone))


def test_moments_of_a_run() -> None:
    rising = Run(STEPS, [0.1, 0.1, 0.3, 0.7, 0.7], [200] * 5)
    assert onset(rising) == 20
    assert half_rise(rising) == pytest.approx(22.5)  # .4 lies a quarter of the way from .3 to .7
    flat = Run(STEPS, [0.1, 0.12, 0.09, 0.11, 0.1], [200] * 5)
    assert (onset(flat), half_rise(flat)) == (None, None)
    falling = Run(STEPS, [0.9, 0.9, 0.5, 0.1, 0.1], [200] * 5)
    assert (onset(falling), half_rise(falling)) == (20, pytest.approx(20))
    with pytest.raises(ValueError, match="step 0"):
        Run((10, 20), [0.1, 0.2], [5, 5])


def test_moments_over_runs() -> None:
    # Mean 24, standard error 2 / sqrt(3); t(0.975) with 2 degrees 4.30265
    found = over_runs([22, 24, 26])
    assert (found.value, found.runs, found.of) == (24, 3, 3)
    assert found.high == pytest.approx(24 + 4.30265 * 2 / math.sqrt(3), rel=1e-5)
    assert over_runs([10, 60, None]).low == 0  # no step is negative
    assert (over_runs([None, None]).value, over_runs([None, 5.0]).low) == (None, None)
    behind = lag([30, 30, None, 20], [20, 40, 10, None])
    assert (behind.value, behind.runs, behind.of) == (0, 2, 4)
    assert behind.low is not None
    assert behind.low < 0


def test_a_reader_finds_the_numbers_with_their_intervals() -> None:
    cells = _cells(GRID)
    final = final_states(cells)
    fits = {name: effects.fits(final, MIXTURES, name) for name in ("19th_century", "old_bird_name")}
    contrasts, doses = effects.all_contrasts(cells), effects.dose_table(fits)
    moments = effects.emergence_table(cells, list(fits), "old_bird_name")
    tables = effect_tables.effect_tables(BIRDS, contrasts, doses, moments)
    assert [len(table.rows) for table in tables] == [12, 14, 6, 10]
    control, _, dose, emerges = tables
    assert control.rows[0][:3] == ["19th-century answers", "1.00-0.00-0.00", "+0.60 [+0.57, +0.63]"]
    assert dose.rows[0][3].startswith("71 % [")
    # All of the rise lies between steps 20 (a quarter) and 30; all runs leave the base at step 20.
    assert emerges.rows[0][2:] == ["20", "23 [23, 24]", "0"]
    assert "half of the effect is reached at 71 % [" in effect_tables.headline(
        BIRDS, doses, moments
    )


def test_a_table_without_rows_says_why() -> None:
    cells = _cells({"1.00-0.00-0.00": [0.5] * 5}, spread=0)
    contrasts = effects.all_contrasts(cells)
    moments = effects.emergence_table(cells, ["19th_century"], "old_bird_name")
    tables = effect_tables.effect_tables(BIRDS, contrasts, effects.dose_table({}), moments)
    control, _, dose, emerges = tables
    assert control.notes == ["No ratio of the grid is without obsolete names: there is no control."]
    assert "fewer than three doses" in dose.notes[0]
    assert emerges.notes == ["No rate differs from the base's in any run."]
    assert effect_tables.headline(BIRDS, effects.dose_table({}), moments) == ""


def test_p_is_below_5_percent_where_the_interval_leaves_out_zero() -> None:
    random = np.random.default_rng(1)
    for seeds in (1, 3):
        for _ in range(40):
            after, before = ((random.binomial(60, 0.3, seeds) / 60).tolist() for _ in range(2))
            found = against_control(after, [60] * seeds, before, [60] * seeds)
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0), found
