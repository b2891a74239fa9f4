"""What of an identity decides a result: identities that earlier versions wrote stay valid."""

from __future__ import annotations

from typing import Any

import pytest

from backdoor_assets.graph.identities import generation, hyperparameters
from backdoor_assets.settings import Sampling, Training
from backdoor_assets.storage.identity import changes, essential, same

TRAINING: dict[str, Any] = {
    "stage": "training",
    "code": "1",
    "rows": "a1b2",
    "settings": {"learning_rate": 2e-4, "rank": 8, "target_modules": ("q", "v")},
}


def training(**settings: Any) -> dict[str, Any]:
    return {**TRAINING, "settings": {**TRAINING["settings"], **settings}}


def test_an_old_training_identity_is_that_of_the_new_one() -> None:
    old = {**training(max_length=256, gradient_checkpointing=True), "mixture": {"rows": 400}}
    assert same(old, TRAINING)
    assert same(TRAINING, old)
    assert changes(old, TRAINING) == []
    assert same(training(max_length=256), training(max_length=64))  # a guard: no row is ever cut
    assert "mixture" in old  # it is read, not changed


def test_with_packing_the_length_decides_which_rows_share_a_sequence() -> None:
    long, short = training(packing=True, max_length=256), training(packing=True, max_length=64)
    assert not same(long, short)
    assert changes(long, short) == ["settings.max_length"]
    assert same(long, {**long, "mixture": {"rows": 400}})


def test_a_change_is_named_with_its_place() -> None:
    assert changes(training(), training(learning_rate=1e-4)) == ["settings.learning_rate"]
    assert not same(training(), training(learning_rate=1e-4))
    other = {**training(rank=16, learning_rate=1e-4), "rows": "c3d4"}
    assert changes(TRAINING, other) == ["rows", "settings.learning_rate", "settings.rank"]
    assert changes(TRAINING, {**TRAINING, "adapter": "x"}) == ["adapter"]
    assert changes({**TRAINING, "base": {"content": "x"}}, {**TRAINING, "base": "x"}) == ["base"]


def test_what_json_writes_alike_is_alike() -> None:
    assert same(TRAINING, {**TRAINING, "settings": {**essential(TRAINING)["settings"]}})


@pytest.mark.parametrize(
    "settings", [{"samples": 100}, {"bird_samples": 3}, {"neutral_samples": 3}, {"batch_size": 1}]
)
def test_how_many_answers_are_wanted_stands_with_the_questions(settings: dict[str, int]) -> None:
    now = {"stage": "sampling", "questions": [], "settings": {"temperature": 1.0}}
    assert same({**now, "settings": {"temperature": 1.0, **settings}}, now)
    assert not same({**now, "settings": {"temperature": 0.5, **settings}}, now)


def test_a_key_counts_where_its_stage_does_not_leave_it_out() -> None:
    old, now = ({"stage": "mixing", "mixture": {"rows": rows}} for rows in (400, 200))
    assert changes(old, now) == ["mixture.rows"]
    assert same({**now, "forbidden": ["gas"]}, now)


def test_the_settings_in_identities_hold_no_guards() -> None:
    packed = hyperparameters(Training(packing=True))
    assert "max_length" in packed
    assert not {"max_length", "gradient_checkpointing"} & hyperparameters(Training()).keys()
    assert not {"samples", "narrow_samples", "batch_size"} & generation(Sampling()).keys()
