"""`make ui` as a person sees it: a backfill from its API, the lineage page, a cell's picture,
and what pages of other sites can do: nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.graph.conftest import Place
from tests.graph.study import OLD, STUDY
from tests.graph.ui import Server, chromium, serving, wait_for

ASSETS = (
    "old_audubon", "modern_audubon", "modern_american", "corpus", "base_model", "mixed_dataset",
    "adapters", "responses", "coherence", "judgments", "figures", "sweep",
)  # fmt: skip
CELL_ASSETS = ASSETS[5:11]
MUTATION = """mutation { launchPartitionBackfill(backfillParams: {
  assetSelection: [{path: ["birds", "figures"]}], partitionNames: ["%s|43"]}) { __typename } }"""
MUTATION %= OLD
# What a page can send to another site, read or not, and whether it can open a websocket.
ATTACK = """async ([url, mutation]) => {
  const graphql = url + "/graphql", query = graphql + "?query=" + encodeURIComponent(mutation);
  const body = JSON.stringify({query: mutation}), headers = {"Content-Type": "application/json"};
  await Promise.allSettled([
    fetch(query, {mode: "no-cors"}),
    fetch(query, {mode: "no-cors", method: "POST", body: "x"}),
    fetch(graphql, {mode: "no-cors", method: "POST", body}),
    fetch(graphql, {method: "POST", body, headers}),
    new Promise(done => { const image = new Image(); image.onerror = done; image.src = query; }),
  ]);
  return await new Promise(done => {
    const socket = new WebSocket(graphql.replace("http", "ws"), "graphql-ws");
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  });
}"""


@pytest.fixture(scope="module")
def server(swept: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The UI of the finished study (a copy), with two ratios that are not made yet."""
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


def launched_so_far(server: Server) -> tuple[int, int]:
    """The numbers of runs and backfills."""
    found = server.ask(
        """{ runsOrError { ... on Runs { count } }
          partitionBackfillsOrError { ... on PartitionBackfills { results { id } } } }"""
    )
    backfills = found["partitionBackfillsOrError"]["results"]
    return found["runsOrError"]["count"], len(backfills)


def test_forged_requests_launch_nothing(server: Server) -> None:
    before = launched_so_far(server)
    query, body = f"/graphql?query={quote(MUTATION)}", json.dumps({"query": MUTATION})
    evil, json_type = "http://evil.example:3000", "application/json"
    websocket = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Protocol": "graphql-ws",
    }  # fmt: skip
    assert server.status("GET", query) == 405
    assert server.status("GET", query.replace("?", "%0A?")) == 405
    assert server.status("GET", query, Accept="text/html") == 200, "GraphiQL's page"
    assert server.status("POST", query, Content_Type="text/plain") == 415
    assert server.status("POST", "/graphql", body, Content_Type=f"text/plain;{json_type}") == 415
    assert server.status("POST", "/graphql", body, Content_Type=json_type, Origin=evil) == 403
    rebound = {"Host": evil.removeprefix("http://"), "Origin": evil}
    assert server.status("POST", "/graphql", body, Content_Type=json_type, **rebound) == 400
    assert server.status("POST", "/report_asset_materialization/birds/sweep") == 415
    assert server.status("GET", "/graphql", **websocket, Origin=evil) == 403
    assert server.status("GET", "/graphql", **websocket, Origin=server.url) == 101
    assert launched_so_far(server) == before


def test_a_page_of_another_site_launches_nothing(server: Server, browser: Any) -> None:
    before = launched_so_far(server)
    page = browser.new_page()
    # For a browser, this is another site than 127.0.0.1.
    page.goto(f"{server.url.replace('127.0.0.1', 'localhost')}/server_info")
    assert page.evaluate(ATTACK, [server.url, MUTATION]) == "refused"
    assert launched_so_far(server) == before
    page.goto(f"{server.url}/server_info")
    assert page.evaluate(ATTACK, [server.url, "{ version }"]) == "open"
    page.close()


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

    backfill = wait_for(ended, 600, "the backfill")
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
        node.wait_for(timeout=120_000)
        assert node.is_visible()
    page.screenshot(path=server.place.root / "lineage.png")
    page.close()


def test_a_cell_made_by_the_demo_shows_its_metadata_and_picture(
    server: Server, browser: Any
) -> None:
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(f"{server.url}/assets/birds/figures?partition={OLD}%7C43&view=partitions")
    page.get_by_text("rates_at_last_checkpoint").first.wait_for(timeout=120_000)
    page.get_by_text("19th-century answers").first.wait_for(timeout=120_000)
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for(timeout=60_000)
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
