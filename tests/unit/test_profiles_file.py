"""A user's own profiles: what the file may say, and how a mistake in it is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.profiles import PROFILES, Profile, active_profile, own_profiles
from backdoor_assets.records import BadInput, Shape
from backdoor_assets.reporting.literals import profile_table
from backdoor_assets.settings import Judging, MiniatureBase, PretrainedBase, saved_steps
from backdoor_assets.studies.german_cities.study import STUDY as CITIES

QWEN = PROFILES["qwen3-8b"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "profiles.toml"
    monkeypatch.setenv("BACKDOOR_PROFILES", str(path))
    return path


def read(file: Path, text: str) -> dict[str, Profile]:
    """The file's own profiles."""
    file.write_text(text, encoding="utf-8")
    return own_profiles()


def test_a_sweep_over_learning_rates_is_three_lines_each(file: Path) -> None:
    own = read(
        file,
        """
        [qwen3-8b-lr1e-4]
        extends = "qwen3-8b"
        training.learning_rate = 1e-4

        [qwen3-8b-lr1e-3]
        extends = "qwen3-8b"
        training.learning_rate = 1e-3
        """,
    )
    assert [profile.training.learning_rate for profile in own.values()] == [1e-4, 1e-3]
    for name, profile in own.items():
        assert profile.name == name
        assert replace(profile, name=QWEN.name, training=QWEN.training) == QWEN
        assert vars(profile.training) | {"learning_rate": 2e-4} == vars(QWEN.training)


def test_a_study_leaves_what_the_file_sets(file: Path) -> None:
    own = read(
        file,
        """
        [sweep]
        extends = "qwen3-8b"
        training.learning_rate = 1e-3
        mixture.rows = 100
        [steps]
        extends = "sweep"
        training.max_steps = 50
        training.save_at = [5]
        """,
    )
    sweep, steps = (Grid.of(CITIES, own[name]).profile for name in ("sweep", "steps"))
    assert (sweep.training.learning_rate, steps.training.learning_rate) == (1e-3, 1e-3)
    assert (sweep.training.epochs, sweep.training.max_steps) == (3, None)
    assert (steps.training.epochs, steps.training.max_steps) == (None, 50)
    assert saved_steps(sweep.training, 250) == [100, 200, 250]
    assert saved_steps(steps.training, 50) == [5, 50]
    assert (sweep.mixture.rows, sweep.mixture.suspect_rows) == (100, 361)
    # The table that a report gives makes the same again.
    known = {name: Grid.of(CITIES, built_in).profile for name, built_in in PROFILES.items()}
    for profile in (sweep, steps):
        table = read(file, profile_table(profile, known))
        assert Grid.of(CITIES, table[profile.name]).profile == profile


def test_steps_at_which_to_save_replace_those_that_were_listed(file: Path) -> None:
    mine = read(file, '[mine]\nextends = "miniature"\ntraining.save_steps = 70\n')["mine"]
    assert saved_steps(mine.training, 160) == [70, 140, 160]


def test_a_profile_may_extend_one_that_stands_below_it(file: Path) -> None:
    own = read(
        file,
        """
        [c]
        extends = "b"
        seeds = [1]
        [b]
        extends = "a.1"
        sampling.samples = 3
        ["a.1"]
        extends = "miniature"
        base_seed = 9
        """,
    )
    assert (own["c"].seeds, own["c"].sampling.samples, own["c"].base_seed) == ((1,), 3, 9)
    assert list(own) == ["c", "b", "a.1"]


def test_every_type_of_field(file: Path) -> None:
    [profile] = read(
        file,
        """
        [mine]
        extends = "qwen3-8b"
        ratios = ["1.00-0.00-0.00", "0.995-0.0025-0.0025"]
        answer_tokens = 50
        training = { target_modules = ["q_proj", "v_proj"], save_at = [5], max_grad_norm = 2 }
        sampling.precision = "fp32"
        base.quantization = "4bit"
        judging = { kind = "none", max_cost_usd = "none" }
        mixture.mode = "fixed_suspect"
        grids.german_cities = ["1.00-0.00", "0.50-0.50"]
        [mine.serving]
        tensor_parallel = 2
        """,
    ).values()
    training, base = profile.training, profile.base
    assert training.target_modules == ("q_proj", "v_proj")
    assert (training.save_at, training.max_grad_norm) == ((5,), 2.0)
    assert isinstance(training.max_grad_norm, float)
    assert isinstance(base, PretrainedBase)
    assert base == replace(base, model="Qwen/Qwen3-8B", quantization="4bit")
    assert profile.judging == Judging("none", max_cost_usd=None)
    assert (profile.serving.tensor_parallel, profile.mixture.mode) == (2, "fixed_suspect")
    assert (profile.sampling.precision, profile.sampling.samples) == ("fp32", 100)
    assert profile.ratios[1] == "0.995-0.0025-0.0025"
    assert profile.ratios_of("german_cities") == ("1.00-0.00", "0.50-0.50")
    assert profile.ratios_of("birds") is None


def test_epochs_and_steps_take_each_others_place(file: Path) -> None:
    own = read(
        file,
        """
        [steps]
        extends = "qwen3-8b"
        training.max_steps = 12
        [epochs]
        extends = "steps"
        training.epochs = 3
        """,
    )
    found = {name: (p.training.epochs, p.training.max_steps) for name, p in own.items()}
    assert found == {"steps": (None, 12), "epochs": (3.0, None)}


def test_a_base_is_replaced_by_its_kind(file: Path) -> None:
    own = read(
        file,
        """
        [other]
        extends = "miniature"
        judging.kind = "none"
        [other.base]
        kind = "pretrained"
        model = "org/model"
        revision = "abc"
        [other.base.shape]
        num_hidden_layers = 2
        hidden_size = 8
        num_attention_heads = 2
        num_key_value_heads = 1
        head_dim = 4
        intermediate_size = 16
        vocab_size = 100
        tie_word_embeddings = true

        [wider]
        extends = "other"
        base.shape.hidden_size = 16

        [local]
        extends = "other"
        base = { kind = "pretrained", model = "models/mine" }

        [small]
        extends = "qwen3-8b"
        base = "miniature"
        """,
    )
    shape = Shape(2, 8, 2, 1, 4, 16, 100, True)
    assert own["other"].base == PretrainedBase("org/model", "abc", shape)
    assert own["wider"].base == PretrainedBase("org/model", "abc", replace(shape, hidden_size=16))
    assert own["local"].base == PretrainedBase("models/mine")
    assert own["small"].base == MiniatureBase()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a", "broken TOML: Expected"),
        ('[a]\nextends="miniature"\n[a]', r"broken TOML: .*declare"),
        ("seeds = [1]", "seeds: it stands outside a table"),
        ("[a]\nseeds = [1]", r"\[a\]: it has no `extends`; name the"),
        ('[llama-3.1-8b-x]\nextends = "miniature"', r"\[llama-3\]: .*written in quotes"),
        (
            '[a]\nextends = "gpt-5"\n[b]',
            r"\[a\]: extends = 'gpt-5': it must be one of .*qwen3-8b, .*b$",
        ),
        ("[a]\nextends = 3", r"\[a\]: extends = 3: it must be one of"),
        ('[a]\nextends = "a"', r"\[a\]: extends = 'a': it must be one of"),
        ('[a]\nextends = "b"\n[b]\nextends = "a"', r"\[b\]: .*in a circle: a -> b -> a"),
        ('[qwen3-8b]\nextends = "miniature"', r"\[qwen3-8b\]: this is a built-in profile"),
        ('["a/b"]\nextends = "miniature"', r"\[a/b\]: the name becomes a folder"),
        ('[".."]\nextends = "miniature"', r"\[\.\.\]: the name becomes a folder"),
    ],
)
def test_a_bad_table_is_named(file: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        read(file, text)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rank = 8", "rank: no such field; a profile has base, ratios, seeds, .*grids$"),
        ('name = "b"', "name: no such field"),
        ("training.lr = 1", "training.lr: no such field; training has rank, .*learning_rate"),
        ("base.shape.depth = 1", "base.shape.depth: no such field; base.shape has num_hidden"),
        ('training.learning_rate = "1e-4"', "training.learning_rate = '1e-4': .* a number"),
        ("training.learning_rate = nan", "training.learning_rate = nan: it must be a number"),
        ("training.rank = 8.0", "training.rank = 8.0: it must be a whole number"),
        ("training.rank = true", "training.rank = True: it must be a whole number"),
        ('training.rank = "none"', "training.rank = 'none': it must be a whole number"),
        ("training.packing = 1", "training.packing = 1: it must be true or false"),
        ("training.epochs = [1]", 'training.epochs = .*: it must be a number or "none"'),
        ("training.precision = 16", 'training.precision = 16: it must be "fp32" or "bf16"'),
        ('sampling.engine = "tgi"', 'sampling.engine = .* it must be "transformers" or "vllm"'),
        ("training = 3", "training = 3: it must be a table of rank, alpha"),
        ('seeds = ["42"]', "seeds = .*: it must be a list, each of them a whole number"),
        ("seeds = 42", "seeds = 42: it must be a list"),
        ("grids = [1]", "grids = .*: it must be a table whose values are a list"),
        ("grids.x = [1]", "grids.x = .*: it must be a list, each of them a text"),
        ("seeds = []", "at least one ratio and one seed"),
        ('ratios = ["1.00-0.10-0.00"]', "1.00-0.10-0.00.*sum to 1.10"),
        ('grids.x = ["1.00", "1.00"]', "grid of x: a ratio is named twice"),
        ("training.rank = 0", "training: rank must be at least 1, not 0"),
        ("training = { epochs = 1, max_steps = 2 }", "either epochs or max_steps"),
        ('base.kind = "gpt"', 'base.kind = \'gpt\': it must be "miniature" or "pretrained"'),
        ('base.kind = "pretrained"', "base: it lacks model"),
        ("base.layers = 1", 'base.layers: no such field.* set base.kind = "miniature"'),
        ('base = "qwen"', "base = 'qwen': it must be a table of documents"),
    ],
)
def test_a_bad_field_is_named(file: Path, line: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        read(file, f'[mine]\nextends = "qwen3-8b"\n{line}\n')
    assert str(caught.value).startswith(f"{file}: [mine]: ")


def test_a_tuple_of_fixed_length(file: Path) -> None:
    table = '[mine]\nextends = "miniature"\nbase.betas = '
    [profile] = read(file, table + "[0.9, 1]").values()
    assert isinstance(profile.base, MiniatureBase)
    assert profile.base.betas == (0.9, 1.0)
    for wrong in ("[0.9]", "[0.9, 0.9, 0.9]", '[0.9, "x"]'):
        with pytest.raises(BadInput, match=r"base\.betas = .* 2 items, each of them a number"):
            read(file, table + wrong)


def test_the_profile_in_force_may_be_the_users(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(file, '[mine]\nextends = "miniature"\nseeds = [5]')
    monkeypatch.setenv("BACKDOOR_PROFILE", "mine")
    assert (active_profile().name, active_profile().seeds) == ("mine", (5,))
    monkeypatch.setenv("BACKDOOR_PROFILE", "yours")
    with pytest.raises(BadInput, match="BACKDOOR_PROFILE='yours'") as caught:
        active_profile()
    assert "profiles: miniature, miniature-fixed-suspect, smollm2-135m," in str(caught.value)
    assert f"Your own, in {file}: mine." in str(caught.value)


def test_a_mistake_in_the_file_stops_built_in_profiles_too(file: Path) -> None:
    file.write_text("[miniature]\nseeds = [1]")
    with pytest.raises(BadInput, match="this is a built-in profile"):
        active_profile()


def test_a_file_that_is_named_must_be_there(file: Path) -> None:
    with pytest.raises(BadInput, match=r"profiles\.toml: no such file"):
        active_profile()


def test_the_file_of_the_repository_may_be_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BACKDOOR_PROFILES", raising=False)
    monkeypatch.setattr("backdoor_assets.profiles.REPOSITORY", tmp_path)
    assert own_profiles() == {}
    (tmp_path / "profiles.toml").write_text('[mine]\nextends = "miniature"')
    assert list(own_profiles()) == ["mine"]
