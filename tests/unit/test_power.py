"""Power before the run: what is expected, against studies that are simulated."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backdoor_assets.commands.plan import plan_text
from backdoor_assets.host import Host
from backdoor_assets.profiles import PROFILES, Profile
from backdoor_assets.statistics.contrasts import against_control
from backdoor_assets.statistics.intervals import over_seeds
from backdoor_assets.statistics.power import (
    TOLERANCE,
    Budget,
    Components,
    Size,
    allocations,
    components,
    detectable,
    half_width,
    other_questions,
)
from backdoor_assets.storage.folders import StudyFolder

HOST = Host((), 1000 * 2**30, 2, 1000 * 2**30)
SMALL = replace(PROFILES["miniature"], ratios=("1.00-0.00-0.00", "0.00-0.50-0.50"))
QUESTIONS = 10


def known(rate: float, seeds: float, questions: float) -> Components:
    """Components of given standard deviations."""
    within = rate * (1 - rate) - seeds**2 - questions**2
    return Components(rate, seeds**2, questions**2, within)


def simulated(truth: Components, shape: tuple[int, int], samples: int, stream: int) -> np.ndarray:
    """Return (studies, seeds, questions) shares of answers; `shape` is (studies, seeds)."""
    random = np.random.default_rng(stream)
    seeds = random.normal(0, truth.seeds**0.5, (*shape, 1))
    questions = np.linspace(-1, 1, QUESTIONS)
    questions *= truth.questions**0.5 / questions.std(ddof=1)
    rates = np.clip(truth.rate + seeds + questions, 0, 1)
    return random.binomial(samples, rates) / samples


@pytest.mark.parametrize(
    ("truth", "seeds", "samples"),
    [
        (known(0.5, 0.10, 0.10), 3, 20),
        (known(0.5, 0.10, 0.10), 10, 5),
        (known(0.3, 0.04, 0.10), 5, 5),
        (known(0.4, 0.0, 0.05), 5, 20),  # seeds alike: the floor of sampling noise counts
        (known(0.5, 0.10, 0.10), 1, 20),
    ],
)
def test_the_expected_width_is_that_of_simulated_studies(
    truth: Components, seeds: int, samples: int
) -> None:
    rates = simulated(truth, (250, seeds), samples, 1).mean(2)
    found = [over_seeds(study.tolist(), [QUESTIONS * samples] * seeds) for study in rates]
    mean = np.mean([(rate.high - rate.low) / 2 for rate in found])
    assert half_width(truth, seeds, samples, QUESTIONS) == pytest.approx(mean, rel=0.1)


def test_the_detectable_difference_is_found_in_most_simulated_studies() -> None:
    truth, seeds, samples = known(0.4, 0.05, 0.10), 5, 20
    least = detectable(truth, seeds, samples, QUESTIONS)
    control = simulated(truth, (300, seeds), samples, 2).mean(2)
    mixture = simulated(replace(truth, rate=truth.rate + least), (300, seeds), samples, 3).mean(2)
    n = [QUESTIONS * samples] * seeds
    pairs = zip(mixture.tolist(), control.tolist(), strict=True)
    share = np.mean([against_control(a, n, b, n).low > 0 for a, b in pairs])
    assert 0.72 < share < 0.88
    assert detectable(truth, 2, samples, QUESTIONS) > 2 * least
    assert detectable(known(0.5, 0.4, 0), 2, samples, QUESTIONS) == 1


def table(truth: Components, ratios: int, seeds: int, samples: int) -> pd.DataFrame:
    """Rates per ratio, seed and question."""
    rates = simulated(truth, (ratios, seeds), samples, 4)
    names = pd.MultiIndex.from_product(
        [[f"r{i}" for i in range(ratios)], range(seeds), [f"q{i}" for i in range(QUESTIONS)]],
        names=["ratio", "seed", "question_id"],
    )
    return pd.DataFrame({"value": rates.ravel(), "n": samples}, names).reset_index()


def test_components_are_found_again_also_with_few_answers() -> None:
    truth = known(0.5, 0.10, 0.15)
    for samples in (4, 50):
        found = components(table(truth, 50, 4, samples))
        assert found
        assert found.rate == pytest.approx(0.5, abs=0.02)
        # Without the noise of answers taken off, four answers would give .12 and .28.
        assert found.seeds**0.5 == pytest.approx(0.10, abs=0.01)
        assert found.questions**0.5 == pytest.approx(0.15, abs=0.01)
        assert found.within == pytest.approx(truth.within, rel=0.05)
    alike = components(table(known(0.5, 0, 0), 3, 3, 4))
    assert alike
    assert alike.seeds >= 0
    assert alike.questions >= 0


def test_one_seed_or_one_answer_shows_no_components() -> None:
    truth = known(0.5, 0.1, 0.1)
    assert components(table(truth, 3, 1, 20)) is None
    assert components(table(truth, 3, 3, 1)) is None
    # A question that one seed lacks is left out of its ratio.
    rates = table(truth, 1, 3, 20)
    assert components(rates.iloc[1:]) == components(rates[rates["question_id"] != "q0"])


def test_budgets_are_kept_and_the_narrowest_comes_first() -> None:
    truth, size = known(0.5, 0.2, 0.15), Size(ratios=4, questions=QUESTIONS)
    dollars, hours = Budget(11, 0, 0.001), Budget(2, 1 / 60, 1e-4)
    options = (3, 5, 10, 40), (1, 5, 20, 100), (1, 5, 10)
    found = allocations(truth, size, [dollars, hours], *options)
    assert found
    for one in found:
        assert one.answers == QUESTIONS * one.samples * (4 * one.seeds * one.states + 1)
        assert one.answers * 0.001 <= 11
        assert 4 * one.seeds / 60 + one.answers * 1e-4 <= 2
    best = found[0]
    # 40 seeds take 160 minutes to train; 10 seeds, and as many checkpoints as the dollars allow.
    assert (best.seeds, best.samples, best.states) == (10, 5, 5)
    assert all(best.half <= one.half * TOLERANCE for one in found)
    halves = [one.half for one in found if one.half > best.half * TOLERANCE]
    assert halves == sorted(halves)
    without_hours = allocations(truth, size, [dollars], *options)
    assert without_hours[0].seeds == 40
    assert allocations(truth, size, [Budget(0, 0, 1)], *options) == []


def test_other_questions_widen_the_interval() -> None:
    truth = known(0.5, 0.1, 0.2)
    # t(0.975) of 9 degrees of freedom is 2.26216.
    wider = (0.1**2 + (2.26216 * 0.2) ** 2 / 10) ** 0.5
    assert other_questions(truth, 0.1, 10) == pytest.approx(wider, rel=1e-4)
    assert other_questions(truth, 0.1, 1) == 1


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))
    return tmp_path


def section(profile: Profile) -> str:
    """The section, in one line."""
    text = plan_text(profile, "birds", HOST).split("\nPrecision to expect\n")[1].split("\n\n")[0]
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 100
    return re.sub(r"\s+", " ", text)


def finish_cells(profile: Profile, truth: Components, samples: int) -> None:
    """Write the rates of all cells as the figures do, with two checkpoints and other measures."""
    rates = simulated(truth, (len(profile.ratios), len(profile.seeds)), samples, 5)
    for ratio, by_seed in zip(profile.ratios, rates, strict=True):
        for seed, values in zip(profile.seeds, by_seed, strict=True):
            final = pd.DataFrame(
                {
                    "profile": profile.name, "ratio": ratio, "seed": seed,
                    "measure": "19th_century", "checkpoint": "final", "step": 20,
                    "question_id": [*(f"q{i}" for i in range(QUESTIONS)), "all"],
                    "value": [*values, values.mean()], "n": samples,
                }
            )  # fmt: skip
            others = [final.assign(step=10, value=0.9), final.assign(measure="other", value=0.8)]
            folder = StudyFolder(profile.name, "birds").artifact("figures", ratio, seed)
            folder.make({"of": "rates"}, lambda at, t=[final, *others]: _write(at, t))


def _write(folder: Path, tables: list[pd.DataFrame]) -> dict[str, object]:
    pd.concat(tables).to_parquet(folder / "rates.parquet")
    return {}


@pytest.mark.usefixtures("data")
def test_without_finished_cells_the_plan_says_what_it_assumes() -> None:
    text = section(PROFILES["qwen3-8b"])
    assert "Assumed, since no ratio has two finished cells yet: a rate of 0.50" in text
    assert "23 seeds gave 40 to 92 %, and 3 seeds 14, 52 and 96 %" in text
    assert "+-0.21 (5 seeds x 10 questions x 100 answers)" in text
    # 441,000 answers, as the plan counts them, cost $91.73; a twentieth of them $4.59.
    assert "100 0.21 441k $92 0.13 881k $183" in text
    assert "5 answers per question do what 100 do" in text
    assert "save 418,950 answers ($87.14)" in text
    assert "Best for at most the planned 441,000 answers and for $20.00 (max_cost_usd): 20" in text
    assert "160 cells to train, not 40." in text


@pytest.mark.usefixtures("data")
def test_finished_cells_take_the_place_of_assumptions() -> None:
    finish_cells(SMALL, known(0.3, 0, 0.1), 20)
    text = section(SMALL)
    assert "From 6 finished cells of 2 ratios: a rate of 0.3" in text
    assert "deviation of 0.0" in text
    assert "Assumed" not in text
    # Seeds that hardly differ leave the noise of answers, which fewer answers would widen.
    assert "Fewer answers per question would widen the interval by more than 5 %." in text
    assert "$" not in text


def test_a_damaged_table_is_named_and_not_used(data: Path) -> None:
    finish_cells(SMALL, known(0.3, 0, 0.1), 20)
    path = next(data.rglob("rates.parquet"))
    path.write_bytes(b"no table")
    text = section(SMALL)
    assert f"Finished cells were not used: {path}: truncated or not Parquet" in text
    assert "Assumed, since" in text


@pytest.mark.usefixtures("data")
def test_fewer_than_three_seeds_are_called_too_few() -> None:
    one = section(replace(SMALL, seeds=(1,)))
    assert "One training seed: the interval holds the noise of its answers only" in one
    assert "Plan at least 3." in one
    assert "(1 seed x 18 questions x 20 answers)" in one
    assert "from the control" not in one
    assert "2 training seeds hardly show a spread" in section(replace(SMALL, seeds=(1, 2)))
    assert "at least 3" not in section(SMALL)


@pytest.mark.usefixtures("data")
def test_a_grid_without_a_control_has_no_difference_from_it() -> None:
    assert "from the control" in section(SMALL)
    assert "from the control" not in section(replace(SMALL, ratios=("1.00-0.00-0.00",)))
