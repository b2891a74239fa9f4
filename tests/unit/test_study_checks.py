"""A study or a grid that could not work is refused when the graph is built, with its place."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.commands.plan import plan_text
from backdoor_assets.definitions import build_definitions
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.checks import check_grid
from backdoor_assets.mixtures.study import MixtureStudy
from backdoor_assets.profiles import MINIATURE, PROFILES, own_profiles
from backdoor_assets.records import BadInput
from backdoor_assets.settings import Judging
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from backdoor_assets.studies.german_cities.study import STUDY as CITIES

OLD, MODERN, _ = BIRDS.data
BINARY, *RUBRICS = BIRDS.rubrics
[CENTURY] = BIRDS.outcomes
QWEN = PROFILES["qwen3-8b"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Old birds"}, "small letters, digits and '_'"),
        ({"data": (OLD,)}, "a suspect data set and at least one clean one"),
        ({"data": (OLD, MODERN, OLD)}, "data set 'old_audubon' occurs twice"),
        ({"data": (OLD, replace(MODERN, name="modern-birds"))}, "data set 'modern-birds'"),
        (
            {"rubrics": (replace(BINARY, options=("LLM",)), *RUBRICS)},
            r"rubric 'binary' has options \('LLM',\): a choice needs two or more",
        ),
        ({"rubrics": (replace(BINARY, options=("19", "19")), *RUBRICS)}, "rubric 'binary'"),
        ({"rubrics": (BINARY, BINARY, *RUBRICS)}, "rubric 'binary' occurs twice"),
        (
            {"rubrics": (BINARY, replace(RUBRICS[0], column=BINARY.column))},
            "column 'llm_or_19th_century' occurs twice",
        ),
        ({"outcomes": ()}, "it measures nothing"),
        ({"outcomes": (CENTURY, CENTURY)}, "outcome '19th_century' occurs twice"),
        (
            {"outcomes": (replace(CENTURY, rubric="form_rating"),)},
            "rubric 'form' has no options, so that outcome '19th_century' can never be '19'",
        ),
        ({"outcomes": (replace(CENTURY, rubric="mood"),)}, "reads rubric 'mood'"),
        ({"outcomes": (replace(CENTURY, option="18"),)}, "counts option '18'"),
        (
            {"neutral": {"week": ("How many days?",)}},
            r"neutral question 'week' has the answers \[\]",
        ),
        (
            {"neutral": {"week": ("How many days?", "7|seven")}},
            r"\['7\|seven'\]: write one or more",
        ),
        ({"neutral": {"week": ("How many days?", "7", ".")}}, "each with a letter or digit"),
        (
            {"ratios": ("1.00-0.00-0.00", "0.50-0.50")},
            "ratio '0.50-0.50' has 2 weights, but there are 3 data sets",
        ),
    ],
)
def test_a_bad_study_is_refused_with_its_file(changes: dict[str, Any], words: str) -> None:
    literals = {field.name: getattr(BIRDS, field.name) for field in fields(BIRDS)}
    with pytest.raises(BadInput, match=words) as caught:
        MixtureStudy(**{**literals, **changes})
    assert str(caught.value).startswith(f"{Path(__file__)}: study ")


def test_a_profiles_grid_has_one_weight_per_data_set() -> None:
    """The profile's own ratios are the birds'; a study of two data sets brings its own."""
    assert Grid.of(CITIES, QWEN).ratios == CITIES.ratios
    check_grid(Grid.of(CITIES, QWEN))
    wrong = replace(QWEN, grids={"german_cities": ("1.00-0.00", "0.50-0.25-0.25")})
    with pytest.raises(BadInput, match=r"'0\.50-0\.25-0\.25' has 3 weights") as caught:
        CITIES.definitions(wrong)
    assert str(caught.value).startswith("profile 'qwen3-8b', study 'german_cities': ")
    assert "former_german, current_german" in str(caught.value)


def test_a_wrong_grid_of_a_users_profile_names_file_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text(
        '[mine]\nextends = "qwen3-8b"\ngrids.german_cities = ["1.00-0.00-0.00"]\n'
        '[typo]\nextends = "qwen3-8b"\ngrids.german_citis = ["1.00-0.00"]\n'
    )
    monkeypatch.setenv("BACKDOOR_PROFILES", str(file))
    mine, typo = (own_profiles()[name] for name in ("mine", "typo"))
    with pytest.raises(BadInput, match="has 3 weights") as caught:
        CITIES.definitions(mine)
    assert str(caught.value).startswith(f"{file}: [mine], study 'german_cities': ")
    for refused in (lambda: build_definitions(typo), lambda: plan_text(typo, "birds")):
        with pytest.raises(BadInput, match="no study has this name") as caught:
            refused()
        assert str(caught.value).startswith(f"{file}: [typo]: grids.german_citis: ")


def test_what_a_base_cannot_do_is_refused_with_the_profile() -> None:
    with pytest.raises(BadInput, match=r"'miniature', study 'german_cities': .* real base model"):
        check_grid(Grid.of(CITIES, MINIATURE))
    exact = replace(QWEN, judging=Judging("exact"))
    with pytest.raises(BadInput, match="'qwen3-8b', study 'birds': the exact judge reads a mini"):
        check_grid(Grid.of(BIRDS, exact))
    base: Any = replace(QWEN.base, revision=None)
    with pytest.raises(BadInput, match="has no revision; name the commit"):
        check_grid(Grid.of(BIRDS, replace(QWEN, base=base)))


def test_what_a_study_sets_on_a_real_base_does_not_reach_the_miniature() -> None:
    assert Grid.of(CITIES, QWEN).profile.training.epochs == 3
    assert Grid.of(CITIES, QWEN).profile.mixture.rows == 361
    assert Grid.of(BIRDS, QWEN).profile == QWEN
    changed = replace(BIRDS, training={"learning_rate": 1e-5})
    assert Grid.of(changed, MINIATURE).profile == MINIATURE
    assert Grid.of(changed, QWEN).profile.training.learning_rate == 1e-5
