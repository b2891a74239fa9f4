"""A base of a hub, through the graph: fetched, pinned, or refused before anything is made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.graph.conftest import REPOSITORY, Place
from tests.unit.cells import make_base
from tests.unit.hub_server import COMMIT, MEMBER, Hub, Repository, serve

# The hub's library reads its environment when it is imported.
STUDY = """
import sys
from dataclasses import replace
from backdoor_assets.commands.demo import run
from backdoor_assets.graph.instance import home
from backdoor_assets.profiles import PROFILES, PretrainedBase, Sampling, Training
from backdoor_assets.records import BadInput, Shape

shape = Shape(1, 64, 2, 2, 32, 96, 600, True)
model, revision, layers = sys.argv[1], sys.argv[2], int(sys.argv[3])
real = PROFILES["qwen3-8b"]
profile = replace(
    real,
    name="study",
    base=PretrainedBase(model, revision, replace(shape, num_hidden_layers=layers)),
    ratios=real.ratios[:1],
    seeds=real.seeds[:1],
    training=replace(real.training, precision="fp32"),
    sampling=Sampling(samples=2, narrow_samples=2, neutral_samples=1, max_new_tokens=4),
)
home(profile.name)
try:
    sys.exit(run(profile, "birds", only="birds_gpu"))
except BadInput as error:
    sys.exit(str(error))
"""
Study = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    base = make_base(tmp_path_factory.mktemp("base"), hidden=64)
    with serve(
        {"birds/tiny": Repository(base), "birds/gated": Repository(base, gated=True)}
    ) as hub:
        yield hub


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def study(hub: Hub, place: Place) -> Study:
    """Runs the study on a base of the hub, with a cache of this test's own."""

    def run(model: str, revision: str = COMMIT, layers: int = 1, **more: str) -> Any:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(place.root / "hf"), **more}
        return subprocess.run(
            [sys.executable, "-c", STUDY, model, revision, str(layers)],
            cwd=REPOSITORY,
            env={**kept, **place.environment(NO_PROXY="127.0.0.1"), **own},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def manifest(place: Place, name: str) -> dict[str, Any]:
    [path] = (place.birds / name).rglob("_manifest.json")
    return json.loads(path.read_text())


def test_a_base_of_the_hub_is_fetched_and_its_commit_recorded(
    study: Study, place: Place, hub: Hub
) -> None:
    first = study("birds/tiny", "main")  # a branch: the commit is what it resolved to
    assert first.returncode == 0, first.stdout + first.stderr
    assert manifest(place, "base_model")["summary"]["commit"] == COMMIT
    for name in ("adapters", "responses"):
        assert manifest(place, name)["identity"]["base"] == {
            "model": "birds/tiny",
            "commit": COMMIT,
        }
    checkpoints = {path.name for path in place.birds.glob("adapters/*/*/checkpoint-*")}
    assert checkpoints == {f"checkpoint-{step}" for step in (*range(20, 208, 20), 208)}
    # It is in the cache now: no network is needed to do it all again.
    shutil.rmtree(place.birds / "responses")
    requests = len(hub.requests)
    again = study("birds/tiny", "main", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(hub.requests) == requests
    assert (place.birds / "responses").exists()


@pytest.mark.parametrize(
    ("model", "layers", "said"),
    [
        ("birds/none", 1, "there is no such repository, or it is private"),
        ("birds/gated", 1, "it is gated, and no HF_TOKEN is set"),
        ("birds/tiny", 3, "num_hidden_layers=3, but config.json says 1"),
    ],
)
def test_a_base_that_cannot_be_had_ends_the_run_before_anything_is_made(
    study: Study, place: Place, model: str, layers: int, said: str
) -> None:
    ended = study(model, layers=layers)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert not (place.birds / "mixed_dataset").exists()


def test_a_gated_base_opens_to_its_token_which_is_written_nowhere(
    study: Study, place: Place
) -> None:
    opened = study("birds/gated", HF_TOKEN=MEMBER)
    assert opened.returncode == 0, opened.stdout + opened.stderr
    assert MEMBER not in opened.stdout + opened.stderr
    for path in [*place.data.rglob("*"), *place.home.rglob("*")]:
        if path.is_file():
            assert MEMBER.encode() not in path.read_bytes(), path
