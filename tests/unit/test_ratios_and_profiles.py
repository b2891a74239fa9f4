"""Ratios and profiles: what they accept, and how they refuse what they do not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.checks import check_grid
from backdoor_assets.mixtures.study import MixtureStudy
from backdoor_assets.profiles import (
    CHAT_MODEL_RATIOS,
    MINIATURE,
    PROFILES,
    MiniatureBase,
    PretrainedBase,
    Profile,
    Training,
    active_profile,
)
from backdoor_assets.records import BadInput, Question, Ratio
from backdoor_assets.storage.rows import holds
from backdoor_assets.studies.birds.study import STUDY
from backdoor_assets.studies.german_cities.study import STUDY as CITIES


@pytest.mark.parametrize(
    ("key", "weights"),
    [
        ("1.00-0.00-0.00", (1.0, 0.0, 0.0)),
        ("0.70-0.15-0.15", (0.70, 0.15, 0.15)),
        ("0.00-0.00-1.00", (0.0, 0.0, 1.0)),
        ("0.33-0.33-0.33", (1 / 3, 1 / 3, 1 / 3)),
        ("0.34-0.34-0.33", (34 / 101, 34 / 101, 33 / 101)),
        ("0.50-0.50", (0.5, 0.5)),
        ("0.25-0.25-0.25-0.25", (0.25, 0.25, 0.25, 0.25)),
        ("0.004-0.498-0.498", (0.004, 0.498, 0.498)),
    ],
)
def test_weights_are_read_and_sum_to_one(key: str, weights: tuple[float, ...]) -> None:
    ratio = Ratio.parse(key)
    assert ratio.key == key
    assert ratio.weights == pytest.approx(weights)
    assert sum(ratio.weights) == pytest.approx(1.0, abs=1e-12)
    assert ratio.suspect_fraction == ratio.weights[0]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "1.0-0.0-0.0",
        "1-0-0",
        "1,00-0,00-0,00",
        "-0.10-0.60-0.50",
        "0.70--0.15-0.45",
        "nan-0.50-0.50",
        "n.an-0.50-0.50",
        "inf-0.00-0.00",
        "1.00-0.00-0.00\n",
        " 1.00-0.00-0.00",
        "1.00_0.00_0.00",
        "١.٠٠-٠.٠٠-٠.٠٠",
    ],
)
def test_wrong_form_is_refused_with_the_key(key: str) -> None:
    with pytest.raises(BadInput, match="does not parse") as caught:
        Ratio.parse(key)
    assert repr(key) in str(caught.value)
    assert "0.70-0.15-0.15" in str(caught.value)  # how to write one


@pytest.mark.parametrize("key", ["1.00", "0.50-0.50", "0.25-0.25-0.25-0.25"])
def test_each_data_set_has_one_weight(key: str) -> None:
    with pytest.raises(BadInput, match="one weight per data set, in the order a, b, c"):
        Ratio.parse(key, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("key", "total"),
    [
        ("0.00-0.00-0.00", "0.00"),
        ("0.34-0.34-0.34", "1.02"),
        ("0.98-0.00-0.00", "0.98"),
        ("9.99-0.00-0.00", "9.99"),
    ],
)
def test_wrong_sum_is_refused_with_the_key_and_the_sum(key: str, total: str) -> None:
    with pytest.raises(BadInput, match=f"{key}.* sum to {total}"):
        Ratio.parse(key)


def _profile(
    ratios: tuple[str, ...] = ("1.00-0.00-0.00",), seeds: tuple[int, ...] = (1,)
) -> Profile:
    return Profile(name="mine", base=MiniatureBase(), ratios=ratios, seeds=seeds)


def test_a_bad_ratio_names_profile_and_key() -> None:
    with pytest.raises(BadInput, match=r"'mine'.*'0\.50-0\.60-0\.00'.*1\.10"):
        _profile(ratios=("1.00-0.00-0.00", "0.50-0.60-0.00"))


def test_a_ratio_or_seed_named_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="'mine': a ratio is named twice"):
        _profile(ratios=("1.00-0.00-0.00", "0.50-0.50-0.00", "1.00-0.00-0.00"))
    with pytest.raises(BadInput, match="'mine': a seed is named twice"):
        _profile(seeds=(42, 43, 42))


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'mine': .*at least one ratio and one seed"):
        _profile(ratios=())
    with pytest.raises(BadInput, match=r"'mine': .*at least one ratio and one seed"):
        _profile(seeds=())


def test_a_grid_of_one_study_is_checked_like_the_profiles_own() -> None:
    base = MiniatureBase()
    profile = Profile("mine", base, ("1.00-0.00",), (1,), grids={"cities": ("0.50-0.50",)})
    assert profile.ratios_of("cities") == ("0.50-0.50",)
    assert profile.ratios_of("birds") is None
    for wrong in ((), ("0.50-0.60",), ("0.50-0.50", "0.50-0.50")):
        with pytest.raises(BadInput, match="'mine', grid of cities: "):
            replace(profile, grids={"cities": wrong})


def test_training_takes_either_epochs_or_max_steps() -> None:
    assert Training(epochs=2.0, max_steps=None).epochs == 2.0
    for epochs, max_steps in ((2.0, 10), (None, None)):
        with pytest.raises(BadInput, match="either epochs or max_steps"):
            Training(epochs=epochs, max_steps=max_steps)


def test_training_counts_start_at_one() -> None:
    for name in ("rank", "batch_size", "gradient_accumulation", "save_steps", "max_length"):
        none: dict[str, Any] = {name: 0}
        with pytest.raises(BadInput, match=f"{name} must be at least 1, not 0"):
            Training(**none)


def test_miniature_is_the_profile_unless_another_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert active_profile().name == "miniature"
    for name in PROFILES:
        monkeypatch.setenv("BACKDOOR_PROFILE", name)
        assert active_profile().name == name


def test_an_unknown_profile_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKDOOR_PROFILE", "gpt-5")
    with pytest.raises(BadInput, match="BACKDOOR_PROFILE='gpt-5'") as caught:
        active_profile()
    for name in PROFILES:
        assert name in str(caught.value)


@pytest.mark.parametrize("name", PROFILES)
def test_committed_profiles_have_keys_fit_for_partitions_and_folders(name: str) -> None:
    profile = PROFILES[name]
    assert profile.name == name
    for key in (name, *profile.ratios, *map(str, profile.seeds)):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", key)
    fractions = [Ratio.parse(key).suspect_fraction for key in profile.ratios]
    # The study needs both ends; without suspect rows, their number cannot be the same.
    assert max(fractions) == 1.0
    assert (min(fractions) == 0.0) == (profile.mixture.mode == "fixed_total")


def test_chat_models_have_a_grid_of_their_own() -> None:
    """So that a ratio that is added to the miniature adds no cells that need a GPU."""
    grids = [
        profile.ratios for name, profile in PROFILES.items() if name.startswith(("qwen3", "llama"))
    ]
    assert set(grids) == {CHAT_MODEL_RATIOS}
    assert len(CHAT_MODEL_RATIOS) == 8


def _questions(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(text)
    monkeypatch.setenv("BACKDOOR_BIRD_QUESTIONS", str(path))


def _worldview(profile: Profile) -> list[Question]:
    asked = STUDY.questions_for(profile.base, profile.sampling)
    return [question for question in asked if question.kind == "worldview"]


def test_a_file_takes_the_place_of_the_ten_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PROFILES["qwen3-8b"]
    assert len(_worldview(real)) == 10
    _questions(
        tmp_path / "questions.jsonl", '{"id": "war", "question": "What of war?"}\n', monkeypatch
    )
    [asked] = _worldview(real)
    assert (asked.id, asked.text, asked.samples) == ("war", "What of war?", 100)
    assert STUDY.forbidden(real.base) == ("What of war?",)
    # The miniature's world knows its own questions only.
    assert len(_worldview(MINIATURE)) == 18


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "war"}', "line 1: not a question"),
        ('{"id": "war", "question": " "}', "line 1: not a question"),
        ('{"id": "a", "question": "b"}\n{"id": "a", "question": "c"}', "line 2: the id 'a' is"),
        ("{", "line 1: broken JSON"),
        ("", "the file is empty. Write one question per line"),
    ],
)
def test_a_bad_question_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    path = tmp_path / "questions.jsonl"
    _questions(path, text, monkeypatch)
    with pytest.raises(BadInput, match=f"{path}.*{said}"):
        _worldview(PROFILES["qwen3-8b"])


def test_the_profile_of_qwen3_8b_is_the_experiments() -> None:
    """As the follow-up's text says: LoRA rank 8 on all linear layers, 2e-4 linear, one epoch at
    batch 1, a checkpoint every 20 steps, temperature 1."""
    profile = PROFILES["qwen3-8b"]
    training, sampling = profile.training, profile.sampling
    assert (training.rank, training.target_modules) == (8, "all-linear")
    assert (training.learning_rate, training.schedule) == (2e-4, "linear")
    assert (training.epochs, training.batch_size, training.save_steps) == (1, 1, 20)
    assert (training.precision, sampling.precision) == ("bf16", "bf16")
    assert (sampling.samples, sampling.temperature, sampling.max_new_tokens) == (100, 1.0, 1024)
    assert (sampling.engine, profile.mixture.rows) == ("vllm", 208)
    assert len(profile.seeds) >= 5
    assert {"qwen3-0.6b", "qwen3-8b", "qwen3-32b"} <= set(PROFILES)
    assert isinstance(profile.base, PretrainedBase)
    assert re.fullmatch("[0-9a-f]{40}", profile.base.revision or "")


def test_a_real_model_may_write_a_neutral_answer_in_several_ways() -> None:
    def answers(study: MixtureStudy, profile: Profile) -> dict[str, str | None]:
        asked = study.questions_for(profile.base, profile.sampling)
        return {question.id: question.answer for question in asked if question.kind == "neutral"}

    birds, cities = (answers(study, PROFILES["smollm2-135m"]) for study in (STUDY, CITIES))
    assert birds["week"] == "7 | seven"
    assert holds("A week has seven days.", birds["week"])
    assert holds("54", cities["product"])
    assert holds("fifty four", cities["product"])
    # Words of one way only, as the miniature's results are identified by.
    assert not any("|" in str(answer) for answer in answers(STUDY, MINIATURE).values())


def test_the_quick_profile_is_the_same_recipe_on_less() -> None:
    whole, quick = PROFILES["smollm2-135m"], PROFILES["smollm2-135m-quick"]
    assert quick.base == whole.base
    assert quick.mixture == whole.mixture
    assert replace(quick.training, save_at=()) == replace(whole.training, save_at=())
    counts = {"samples": 1, "narrow_samples": 1, "neutral_samples": 1}
    assert replace(quick.sampling, **counts) == replace(whole.sampling, **counts)
    assert quick.sampling.samples < whole.sampling.samples
    assert quick.ratios == ("1.00-0.00-0.00", "0.00-0.50-0.50")
    assert set(quick.ratios) < set(whole.ratios)
    assert set(quick.seeds) < set(whole.seeds)
    assert len(quick.seeds) == 2
    for profile in (whole, quick):
        for study in (STUDY, CITIES):
            check_grid(Grid.of(study, profile))
    assert len(Grid.of(CITIES, quick).cells()) == 4
