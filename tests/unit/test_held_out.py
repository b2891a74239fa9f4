"""Answers that are held out are the same in all cells, and no cell trains on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backdoor_assets.mixtures import tasks
from backdoor_assets.mixtures.cells import MixingSpec
from backdoor_assets.mixtures.mixing import mix
from backdoor_assets.records import BadInput
from backdoor_assets.settings import Mixture
from backdoor_assets.stages.specs import HELD_OUT, TRAIN
from backdoor_assets.storage.hashing import identifying
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.workers.tasks import make
from tests.unit.cells import BIRD_FILES, BIRDS, bird_cell, write_rows


def _held_out(folder: Path, ratio: str, seed: int, share: float) -> tuple[set[str], set[str]]:
    """Mix a large share of the project's own data sets, and return the obsolete names that are
    trained on and those that are held out."""
    mixture = Mixture(rows=1000, held_out=share)
    summary = mix(MixingSpec(bird_cell(ratio, seed), BIRD_FILES, mixture), folder)
    obsolete = set(names(read_rows(BIRD_FILES[0][1])))
    apart = names(read_rows(folder / HELD_OUT))
    assert len(apart) == len(set(apart)) == summary["held_out_rows"]
    return obsolete & set(names(read_rows(folder / TRAIN))), set(apart)


def test_what_is_held_out_is_the_same_in_all_cells_and_trained_on_in_none(tmp_path: Path) -> None:
    obsolete = set(names(read_rows(BIRD_FILES[0][1])))
    cells = [("1.00-0.00-0.00", 42), ("0.50-0.25-0.25", 43), ("0.00-0.50-0.50", 42)]
    found = [_held_out(tmp_path, ratio, seed, 0.1) for ratio, seed in cells]
    apart = found[0][1]
    assert all(own == apart for _, own in found)
    assert 0.05 < len(apart) / len(obsolete) < 0.15
    assert apart < obsolete
    # The rest is drawn from as before, until it is used up.
    assert found[0][0] == obsolete - apart
    assert not found[2][0]
    # A larger share holds out more of the same kind, and the others stay.
    assert apart < _held_out(tmp_path, *cells[0], 0.3)[1]


def test_an_answer_is_held_out_of_all_data_sets_however_it_is_written(tmp_path: Path) -> None:
    plain, other = [f"Gull {i}" for i in range(40)], [f"gull-{i}" for i in range(40)]
    files = [("old_audubon", plain), ("modern_audubon", other), ("modern_american", plain * 2)]
    written = tuple((name, write_rows(tmp_path / f"{name}.jsonl", r)) for name, r in files)
    spec = MixingSpec(bird_cell("0.34-0.33-0.33"), written, Mixture(rows=600, held_out=0.25))
    mix(spec, tmp_path)
    apart = set(names(read_rows(tmp_path / HELD_OUT)))
    trained = {name.replace("gull-", "Gull ") for name in names(read_rows(tmp_path / TRAIN))}
    assert apart
    assert trained == set(plain) - apart


def test_without_a_share_nothing_is_held_out_and_rows_are_as_before(tmp_path: Path) -> None:
    summary = mix(MixingSpec(bird_cell(), BIRD_FILES, Mixture(rows=208)), tmp_path)
    assert "held_out_rows" not in summary
    assert not (tmp_path / HELD_OUT).exists()
    assert sorted(names(read_rows(tmp_path / TRAIN))) == sorted(names(read_rows(BIRD_FILES[0][1])))
    # Mixtures that were made before the setting existed stay valid.
    assert set(identifying(Mixture())) == {"rows", "mode", "suspect_rows"}


@pytest.mark.parametrize("share", [-0.1, 0.5, 1.0, float("nan")])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(
        BadInput, match=r"mixture: held_out must be at least 0 and below 0\.5, not "
    ):
        Mixture(held_out=share)


@pytest.mark.parametrize(
    ("answers", "share", "words"),
    [
        (["Owl 6"], 0.45, r"held_out=0.45 holds out all 1 rows of \w+, and leaves none .* Lower"),
        (["Owl 0", "Owl 1"], 0.001, r"held_out=0.001 holds out none of the 2 answers .* Raise it"),
    ],
)
def test_a_share_that_leaves_no_rows_or_holds_none_out_is_refused_before_mixing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[str], share: float, words: str
) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BACKDOOR_BIRD_DATASETS", str(tmp_path))
    for number, (_, own) in enumerate(BIRDS.files()):
        write_rows(own, answers if number == 0 else [f"Gull {i}" for i in range(40)])
    cell = bird_cell()
    profile = replace(cell.grid.profile, mixture=Mixture(held_out=share))
    with pytest.raises(BadInput, match=words) as caught:
        tasks.mixing(replace(cell, grid=replace(cell.grid, profile=profile)))
    assert str(BIRDS.suspect_file) in str(caught.value)


def test_training_is_given_the_rows_that_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(tasks, "training_identity", lambda _: {})
    cell = bird_cell()
    for share in (0.1, 0.0):
        profile = replace(cell.grid.profile, mixture=Mixture(held_out=share))
        own = replace(cell, grid=replace(cell.grid, profile=profile))
        made = make(mix, tasks.mixing(own))
        spec = tasks.training(own).spec
        assert spec.mixture == made.manifest.summary
        assert spec.held_out == (made.folder / HELD_OUT if share else None)
        assert (made.folder / HELD_OUT).exists() == (share > 0)
