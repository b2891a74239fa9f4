"""The study over three hosts: each has only the files that were copied to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from backdoor_assets.studies.birds.study import STUDY as BIRDS
from tests.graph.conftest import Graph, Place
from tests.graph.study import MODERN, OLD, STUDY


def copy(source: Place, target: Place, *names: str) -> None:
    for name in names:
        shutil.copytree(source.birds / name, target.birds / name)


def test_each_part_works_from_the_files_of_the_one_before(swept: Place, tmp_path: Path) -> None:
    """A cell that was not copied is left out; the figures are those of one ratio."""
    judge, laptop = Place(tmp_path / "judge"), Place(tmp_path / "laptop")
    copy(swept, judge, "responses")
    shutil.rmtree(judge.birds / "responses" / MODERN / "43")
    judged = judge.run("--only", "birds_judge")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "1 cells of the grid have no responses" in judged.stdout
    assert len(list(judge.birds.glob("judgments/*/*/judgments.parquet"))) == 5
    assert sorted(path.name for path in judge.birds.iterdir()) == ["judgments", "responses"]

    copy(swept, laptop, "mixed_dataset", "responses")
    copy(judge, laptop, "judgments")
    drawn = laptop.run("--only", "birds_figures", "--ratios", OLD)
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert not (laptop.birds / "adapters").exists()
    assert not (laptop.birds / "base_model").exists()
    here, there = (
        pd.read_parquet(place.birds / "sweep" / "rates.parquet").query("ratio == @OLD")
        for place in (laptop, swept)
    )
    assert len(here) > 0
    assert here.reset_index(drop=True).equals(there.reset_index(drop=True))
    assert "In the sweep:           3 of 3 cells" in drawn.stdout


def test_a_part_without_its_files_says_what_to_copy(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for part, needed in (("birds_judge", "responses"), ("birds_figures", "judgments")):
        result = place.run("--only", part)
        assert result.returncode == 1
        assert f"{place.birds / needed}: there are no {needed} here; copy the folder" in (
            result.stderr
        )


def test_the_jobs_are_in_the_graph(tmp_path: Path, graph_of: Callable[[Place], Graph]) -> None:
    definitions = graph_of(Place(tmp_path)).definitions
    for name, (_, assets) in BIRDS.parts().items():
        spec = definitions.resolve_job_def(name)
        assert {key.path[-1] for key in spec.asset_layer.selected_asset_keys} == set(assets)
        assert spec.partitions_def is not None
        assert len(spec.partitions_def.get_partition_keys()) == len(STUDY.ratios) * len(STUDY.seeds)
