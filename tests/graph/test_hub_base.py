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
import os
import sys
from dataclasses import replace
from pathlib import Path
from backdoor_assets.commands.demo import run
from backdoor_assets.graph.instance import home
from backdoor_assets.profiles import PROFILES, PretrainedBase, Sampling, Training
from backdoor_assets.records import BadInput, Shape
from tests.graph.conftest import Graph, Place

shape = Shape(1, 64, 2, 2, 32, 96, 600, True)
real = PROFILES["qwen3-8b"]
home("study")
for argument in sys.argv[1:]:
    model, revision, layers, *names = argument.split()
    shape = replace(shape, num_hidden_layers=int(layers))
    profile = replace(
        real,
        name="study",
        base=PretrainedBase(model, revision, shape),
        ratios=real.ratios[:1],
        seeds=real.seeds[:1],
        training=replace(real.training, precision="fp32", batch_size=8),
        sampling=Sampling(samples=1, narrow_samples=1, neutral_samples=1, max_new_tokens=4),
    )
    try:
        if names:
            place = Place(Path(os.environ["BACKDOOR_DATA"]).parent)
            code = 0 if Graph(profile, place).run(names).success else 1
        else:
            code = run(profile, "birds", only="birds_gpu")
    except BadInput as error:
        print(error, file=sys.stderr)
        code = 1
    print(f"{model} {layers}: ended with {code}", file=sys.stderr)
sys.exit(code)
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
    """Runs the study, or some assets of it, on bases of the hub, one after the other, with a cache
    of this test's own. A base is its name, revision and layers, and then the assets."""

    def run(*bases: str, **more: str) -> Any:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(place.root / "hf"), **more}
        return subprocess.run(
            [sys.executable, "-c", STUDY, *bases],
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


REFUSED = {
    f"birds/none {COMMIT} 1": "there is no such repository, or it is private",
    f"birds/gated {COMMIT} 1": "it is gated, and no HF_TOKEN is set",
    f"birds/tiny {COMMIT} 3": "num_hidden_layers=3, but config.json says 1",
}


def test_bases_that_cannot_be_had_end_the_run_before_anything_is_made(
    study: Study, place: Place
) -> None:
    """And one that is public is had without a token."""
    ended = study(*REFUSED, "birds/tiny main 1 base_model")
    assert ended.returncode == 0, ended.stderr
    said = ended.stderr
    for base, reason in REFUSED.items():
        model, _, layers = base.split()
        of_this, end, said = said.partition(f"{model} {layers}: ended with 1")
        assert end, ended.stderr
        assert reason in of_this
    assert not (place.birds / "mixed_dataset").exists()
    assert manifest(place, "base_model")["summary"]["commit"] == COMMIT


def test_a_base_of_the_hub_is_fetched_and_its_commit_but_no_token_recorded(
    study: Study, place: Place, hub: Hub
) -> None:
    # A branch: the commit is what it resolved to. It is gated, and opens to its token.
    first = study("birds/gated main 1", HF_TOKEN=MEMBER)
    assert first.returncode == 0, first.stdout + first.stderr
    assert manifest(place, "base_model")["summary"]["commit"] == COMMIT
    for name in ("adapters", "responses"):
        assert manifest(place, name)["identity"]["base"] == {
            "model": "birds/gated",
            "commit": COMMIT,
        }
    checkpoints = {path.name for path in place.birds.glob("adapters/*/*/checkpoint-*")}
    assert checkpoints == {"checkpoint-20", "checkpoint-26"}
    assert MEMBER not in first.stdout + first.stderr
    for path in [*place.data.rglob("*"), *place.home.rglob("*")]:
        if path.is_file():
            assert MEMBER.encode() not in path.read_bytes(), path
    # It is in the cache now: no network is needed to do it all again.
    shutil.rmtree(place.birds / "responses")
    requests = len(hub.requests)
    again = study("birds/gated main 1", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(hub.requests) == requests
    assert (place.birds / "responses").exists()
