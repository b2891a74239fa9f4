"""`make ui` as a person sees it: a backfill from its API, the lineage page, a cell's picture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.graph.conftest import Place
from tests.graph.study import OLD, STUDY
from tests.graph.ui import Server, chromium, serving, wait_for

ASSETS = (
    "old_audubon", "modern_audubon", "modern_american", "corpus", "base_model", "mixed_dataset",
    "adapters", "responses", "judgments", "figures", "sweep",
)  # fmt: skip
CELL_ASSETS = ASSETS[5:10]

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def server(swept: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`dagster dev` on the finished study (a copy), with two ratios that are not made yet."""
    place = Place(tmp_path_factory.mktemp("ui"))
    shutil.copytree(swept.data, place.data)
    shutil.copytree(swept.home, place.home, symlinks=True)
    definitions = (
        "from dataclasses import replace\n"
        "from backdoor_assets.definitions import build_definitions\n"
        "from tests.graph.study import STUDY\n"
        "more = ('0.80-0.10-0.10', '0.20-0.40-0.40')\n"
        "training = replace(STUDY.training, max_steps=10, save_steps=10)\n"
        "profile = replace(STUDY, ratios=(*STUDY.ratios, *more), training=training)\n"
        "defs = build_definitions(profile)\n"
    )
    with serving(place, definitions) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def test_a_backfill_of_ratios_takes_one_run_a_row(server: Server) -> None:
    keys = [f"{ratio}|42" for ratio in ("0.80-0.10-0.10", "0.20-0.40-0.40")]
    launched = server.ask(
        """mutation($params: LaunchBackfillParams!) {
          launchPartitionBackfill(backfillParams: $params) {
            __typename ... on LaunchBackfillSuccess { backfillId } } }""",
        params={
            "assetSelection": [{"path": ["birds", name]} for name in CELL_ASSETS],
            "partitionNames": keys,
        },
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ended() -> dict[str, Any] | None:
        backfill = server.ask(
            """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
              ... on PartitionBackfill { status runs: unfinishedRuns(limit: 1) { id } } } }""",
            id=launched["backfillId"],
        )["partitionBackfillOrError"]
        return backfill if backfill["status"].startswith(("COMPLETED", "FAILED")) else None

    backfill = wait_for(ended, 420, "the backfill")
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill
    runs = server.ask(
        """query($tag: String!) { runsOrError(filter: {tags: [
          {key: "dagster/backfill", value: $tag}]}) {
          ... on Runs { results { status tags { key value } } } } }""",
        tag=launched["backfillId"],
    )["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"], "both cells of the row in one run"
    for key in keys:
        ratio, seed = key.split("|")
        folder = server.place.birds / "figures" / ratio / seed
        assert (folder / "training_progression.pdf").exists()


def test_the_lineage_page_shows_all_assets(server: Server, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    location = server.ask("{ workspaceOrError { ... on Workspace { locationEntries { name } } } }")[
        "workspaceOrError"
    ]["locationEntries"][0]["name"]
    page.goto(f"{server.url}/locations/{location}/asset-groups/birds/lineage")
    for name in ASSETS:
        node = page.get_by_text(name, exact=True).first
        node.wait_for(timeout=30_000)
        assert node.is_visible()
    page.screenshot(path=server.place.root / "lineage.png")
    page.close()


def test_a_cell_made_by_the_demo_shows_its_metadata_and_picture(
    server: Server, browser: Any
) -> None:
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(f"{server.url}/assets/birds/figures?partition={OLD}%7C43&view=partitions")
    page.get_by_text("rates_at_last_checkpoint").first.wait_for(timeout=30_000)
    page.get_by_text("19th-century answers").first.wait_for(timeout=30_000)
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for(timeout=10_000)
    assert picture.evaluate("image => image.complete && image.naturalWidth") >= 600
    page.close()


def test_the_history_of_the_demo_is_there(server: Server) -> None:
    """`make ui` after `make demo` shows every cell of the demo as materialized."""
    found = server.ask(
        """{ assetNodes(group: {groupName: "birds", repositoryName: "__repository__",
          repositoryLocationName: "ui_definitions.py"}) { assetKey { path }
          partitionStats { numMaterialized numFailed } } }"""
    )["assetNodes"]
    stats = {node["assetKey"]["path"][-1]: node["partitionStats"] for node in found}
    for name in CELL_ASSETS:
        assert stats[name]["numMaterialized"] >= len(STUDY.ratios) * len(STUDY.seeds)
        assert stats[name]["numFailed"] == 0
