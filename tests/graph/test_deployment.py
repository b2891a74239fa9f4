"""One backfill over three code locations, through the loss of Postgres and of two hosts."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.claude_server import ClaudeServer, Config, serve
from tests.graph.conftest import Place
from tests.graph.deployment import RELOAD_SECONDS, Deployment, deployment
from tests.graph.study import MODERN, OLD, STUDY
from tests.graph.ui import Server, wait_for

GPU = "mixed_dataset", "adapters", "responses", "coherence"
ROLE_OF = {**dict.fromkeys(GPU, "gpu"), "judgments": "judge"}
ROLE_OF |= {"figures": "laptop", "sweep": "laptop"}
# Two cells of the profile of the other graph tests.
CELLS = [Path(ratio) / "42" for ratio in (OLD, MODERN)]
PROFILE = f"""
[study]
extends = "miniature"
ratios = ["{OLD}", "{MODERN}"]
seeds = [42]
mixture.held_out = {STUDY.mixture.held_out}
training.max_steps = {STUDY.training.max_steps}
training.save_at = []
training.save_steps = {STUDY.training.save_steps}
sampling.samples = {STUDY.sampling.samples}
sampling.narrow_samples = {STUDY.sampling.narrow_samples}
sampling.neutral_samples = {STUDY.sampling.neutral_samples}
judging.mode = "one"
"""
ASSETS = "{ assetNodes { assetKey { path } isMaterializable repository { location { name } } } }"
LAUNCH = """mutation($backfill: LaunchBackfillParams!) {
    launchPartitionBackfill(backfillParams: $backfill) {
        ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status error { message } } } }"""
RUNS = """{ runsOrError { ... on Runs { results { status assetSelection { path }
    repositoryOrigin { repositoryLocationName } } } } }"""
SLOTS = "{ instance { concurrencyLimits { concurrencyKey activeSlotCount pendingStepCount } } }"


@dataclass
class Backfill:
    """A backfill over all cells, asked for through the webserver."""

    ui: Server
    id: str

    @classmethod
    def launch(cls, ui: Server) -> Backfill:
        selection = [{"path": ["birds", name]} for name in ROLE_OF]
        backfill = {"assetSelection": selection, "allPartitions": True}
        launched = ui.ask(LAUNCH, backfill=backfill)["launchPartitionBackfill"]
        return cls(ui, launched["backfillId"])

    def is_over(self) -> bool:
        found = self.ui.ask(BACKFILL, id=self.id)["partitionBackfillOrError"]
        assert found["error"] is None, found["error"]["message"]
        return found["status"] == "COMPLETED_SUCCESS"

    def runs(self) -> Counter[tuple[str, str, frozenset[str]]]:
        """The number of runs by location, status and assets."""
        return Counter(
            (
                run["repositoryOrigin"]["repositoryLocationName"],
                run["status"],
                frozenset(key["path"][-1] for key in run["assetSelection"]),
            )
            for run in self.ui.ask(RUNS)["runsOrError"]["results"]
        )


def locations(ui: Server) -> dict[str, str]:
    """The location that makes each asset of a cell, of those that the webserver has loaded."""
    return {
        node["assetKey"]["path"][-1]: node["repository"]["location"]["name"]
        for node in ui.ask(ASSETS)["assetNodes"]
        if node["isMaterializable"] and node["assetKey"]["path"][-1] in ROLE_OF
    }


@pytest.fixture
def claude() -> Iterator[ClaudeServer]:
    with serve(Config(api_key=f"sk-ant-{secrets.token_hex(20)}")) as server:
        yield server


@pytest.fixture
def deployed(place: Place) -> Iterator[Deployment]:
    profiles = place.root / "profiles.toml"
    profiles.write_text(PROFILE)
    shared = {
        "BACKDOOR_PROFILES": str(profiles),
        "BACKDOOR_PROFILE": "study",
        "BACKDOOR_JUDGE": "claude",
        "BACKDOOR_JUDGE_TRANSPORT": "live",
    }
    with deployment(place, shared) as started:
        yield started


def test_one_backfill_runs_each_asset_on_its_host(
    deployed: Deployment, place: Place, swept: Place, claude: ClaudeServer
) -> None:
    """The judge is down while the GPU host works. Postgres is killed in the middle, once with the
    webserver and the daemon, once alone, then the GPU host; the laptop restarts. In the end nothing
    is lost or paid twice."""
    birds, key = place.birds, claude.config.api_key
    judge = {"ANTHROPIC_API_KEY": key, "ANTHROPIC_BASE_URL": claude.address}
    deployed.start_location("gpu")
    deployed.start_location("laptop")
    deployed.start_location("judge", **judge)
    ui = deployed.serve()
    wait_for(lambda: locations(ui) == ROLE_OF, 600, "the three locations")
    sent = {"Content_Type": "application/json", "Origin": "http://elsewhere.example"}
    assert ui.status("POST", "/graphql", "{}", **sent) == 403

    backfill = Backfill.launch(ui)
    wait_for(backfill.runs, 600, "the run of the GPU host")
    deployed.kill("judge")
    wait_for(lambda: list(birds.glob("adapters/*/*/checkpoint-*")), 600, "a checkpoint")
    for part in ("webserver", "daemon"):
        deployed.kill(part)
    deployed.database.kill()
    deployed.database.start()
    ui = backfill.ui = deployed.serve()

    wait_for(lambda: list(birds.glob("responses/*/*/*")), 600, "the first answers")
    deployed.database.kill()
    deployed.database.start()
    deployed.kill("gpu")
    deployed.start_location("gpu")
    wait_for(lambda: deployed.is_up("gpu"), 600, "the GPU host to be back")
    time.sleep(2 * RELOAD_SECONDS)  # until the daemon has seen it
    assert "had been killed" not in deployed.recover("laptop") + deployed.recover()
    assert "had been killed" in deployed.recover("gpu")

    scored = [birds / "coherence" / cell / "_manifest.json" for cell in CELLS]
    wait_for(lambda: all(path.exists() for path in scored), 600, "the GPU host")
    assert not backfill.is_over()
    assert not (birds / "judgments").exists()
    deployed.kill("laptop")
    deployed.start_location("laptop")
    deployed.start_location("judge", **judge)
    wait_for(backfill.is_over, 600, "the backfill")

    runs = backfill.runs()
    assert runs == {
        ("gpu", "FAILURE", frozenset(GPU)): 1,
        ("gpu", "SUCCESS", frozenset(GPU)): 1,
        ("judge", "SUCCESS", frozenset({"judgments"})): 1,
        ("laptop", "SUCCESS", frozenset({"figures"})): 1,
        ("laptop", "SUCCESS", frozenset({"sweep"})): 1,
    }
    pools = ui.ask(SLOTS)["instance"]["concurrencyLimits"]
    assert {pool["concurrencyKey"]: pool["activeSlotCount"] for pool in pools} == {
        "gpu": 0,
        "judge_api": 0,
    }
    _is_as_on_one_host(birds, swept.birds)
    _is_judged_once(birds, claude)
    for folder in (place.root, deployed.database.folder):
        for path in folder.rglob("*"):
            assert not path.is_file() or key.encode() not in path.read_bytes(), path


def _is_as_on_one_host(birds: Path, there: Path) -> None:
    """What hosts without a judge make is equal to the byte; answers are equal row by row."""
    for cell in CELLS:
        adapters = sorted((there / "adapters" / cell).glob("*/adapter_model.safetensors"))
        assert len(adapters) == 2
        for path in adapters:
            assert (birds / path.relative_to(there)).read_bytes() == path.read_bytes(), path
        for name in ("responses/{}/responses", "responses/{}/probes", "coherence/{}/coherence"):
            file = name.format(cell) + ".parquet"
            pd.testing.assert_frame_equal(
                pd.read_parquet(birds / file), pd.read_parquet(there / file)
            )
        assert (birds / "figures" / cell / "rates.parquet").exists()
    assert (birds / "sweep" / "report.html").exists()


def _is_judged_once(birds: Path, claude: ClaudeServer) -> None:
    """Every answer has its verdicts, and no call was billed twice."""
    table = pd.concat(
        pd.read_parquet(birds / "judgments" / cell / "judgments.parquet") for cell in CELLS
    )
    assert table["is_19th_century"].notna().all()
    assert table["content_rating"].notna().all()
    assert max(claude.billed.values()) == 1
    distinct = table.drop_duplicates(["question", "response"])
    assert claude.billed.total() == len(distinct)
