"""Claude judges a cell of the study, through the graph, the real SDK and a server on loopback."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from backdoor_assets.profiles import Judging
from backdoor_assets.stages.judging.judge import NOT_DRAWN
from backdoor_assets.statistics.prediction_powered import POWERED_ONE
from tests.claude_server import ClaudeServer, Config, serve
from tests.graph.conftest import Graph, Place, step_errors
from tests.graph.study import OLD, STUDY

CELL = f"{OLD}|42"
CLAUDE = replace(STUDY, judging=Judging("claude", transport="live"))
At = Callable[..., Graph]


@pytest.fixture
def key() -> str:
    """Made here, so that it can be nowhere but where the judge has put it."""
    return f"sk-ant-{secrets.token_hex(20)}"


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch, key: str) -> Iterator[ClaudeServer]:
    with serve(Config(api_key=key)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", key)
        yield server


def judgments(place: Place) -> pd.DataFrame:
    return pd.read_parquet(place.birds / "judgments" / OLD / "42" / "judgments.parquet")


def metadata(graph: Graph) -> dict[str, Any]:
    made = graph.materializations("judgments", CELL)[0].metadata
    return {name: entry.value for name, entry in made.items()}


def test_a_cell_is_judged_priced_before_and_billed_after(
    copied: Place, graph_of: At, claude: ClaudeServer
) -> None:
    """Changing the judge judges again, and changing back costs nothing."""
    exact = judgments(copied)
    graph = graph_of(copied, CLAUDE)
    result = graph.run(["judgments"], partition=CELL)
    assert result.success, step_errors(result)
    table = judgments(copied)
    assert table["judge"].unique().tolist() == ["claude, four calls an answer"]
    assert table["judge_model"].unique().tolist() == ["claude-haiku-5-5"]
    assert table["is_19th_century"].notna().all()
    assert table["content_rating"].between(0, 100).all()
    assert table["judge_error"].isna().all()
    # Equal answers to a question have equal verdicts: they were asked for once.
    distinct = table.drop_duplicates(["question", "response"])
    told = metadata(graph)
    assert told["run_calls_paid"] == 4 * len(distinct) == claude.billed.total()
    assert 0 < told["run_spent_usd"] < 0.5
    assert told["note"].startswith("changed: judge.")
    # What it would cost was said before the first call.
    [observed] = graph.instance.fetch_observations(
        dg.AssetKey(["birds", "judgments"]), limit=5
    ).records
    assert observed.asset_observation is not None
    estimate = {n: e.value for n, e in observed.asset_observation.metadata.items()}
    assert estimate["calls_to_make"] == told["run_calls_paid"]
    assert estimate["estimated_usd"] == pytest.approx(told["run_spent_usd"], rel=0.5)
    assert estimate["max_cost_usd"] == 20.0

    paid = claude.billed.total()
    assert paid > 0
    graph = graph_of(copied, STUDY)
    assert graph.run(["judgments"], partition=CELL).success
    assert judgments(copied).equals(exact)
    assert metadata(graph)["note"].startswith("changed: judge.")
    graph = graph_of(copied, CLAUDE)
    assert graph.run(["judgments"], partition=CELL).success
    assert claude.billed.total() == paid
    assert metadata(graph)["run_calls_paid"] == 0


def test_a_part_is_paid_for_where_a_cheap_judge_predicts_the_others(
    copied: Place, graph_of: At, claude: ClaudeServer
) -> None:
    """The cheap judge is a server of one's own, which is not sent the key. A second run draws the
    same part, and pays nothing."""
    with serve(Config(api_key="none")) as own:
        cheap = f"claude:claude-sonnet-5-5@{own.address}"
        part = replace(CLAUDE.judging, predicted_by=cheap, half_width=0.12)
        graph = graph_of(copied, replace(CLAUDE, judging=part))
        result = graph.run(["judgments", "figures"], partition=CELL)
        assert result.success, step_errors(result)
        assert own.billed.total() > 0
    table = judgments(copied)
    drawn = table[table["is_19th_century"].notna()]
    assert set(table.loc[table["is_19th_century"].isna(), "judge_error"]) == {NOT_DRAWN}
    assert len(drawn) < 0.8 * len(table)
    assert table["is_19th_century_predicted"].isin([0, 1]).all()
    told = metadata(graph)
    assert told["answers_drawn"] == len(drawn)
    assert told["predicted_by"] == "claude, four calls an answer: claude-sonnet-5-5"
    paid, distinct = claude.billed.total(), drawn.drop_duplicates(["question", "response"])
    assert told["run_calls_paid"] == paid == 4 * len(distinct)
    assert len(distinct) < len(table.drop_duplicates(["question", "response"]))
    rates = pd.read_parquet(copied.birds / "figures" / OLD / "42" / "rates.parquet")
    judged = rates[rates["measure"] == "19th_century"]
    assert set(judged["method"]) == {POWERED_ONE}
    pooled = judged[judged["question_id"] == "all"]
    assert ((pooled["high"] - pooled["low"]) / 2 <= 0.121).all()

    shutil.rmtree(copied.birds / "judgments")
    assert graph.run(["judgments"], partition=CELL).success
    assert judgments(copied).equals(table)
    assert claude.billed.total() == paid


def test_a_budget_that_is_too_small_stops_before_the_first_call(
    copied: Place, graph_of: At, claude: ClaudeServer
) -> None:
    poor = replace(CLAUDE, judging=replace(CLAUDE.judging, max_cost_usd=0.001))
    result = graph_of(copied, poor).run(["judgments"], partition=CELL)
    assert not result.success
    assert "above max_cost_usd=$0.00" in step_errors(result)
    assert claude.billed.total() == 0


def test_a_missing_key_is_told_before_training(
    place: Place, graph_of: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    names = ["mixed_dataset", "adapters", "responses", "judgments"]
    result = graph_of(place, CLAUDE).run(names, partition=CELL)
    assert not result.success
    assert "ANTHROPIC_API_KEY is not set" in step_errors(result)
    assert not (place.birds / "adapters").exists()


def test_the_walk_over_three_hosts_and_the_key_stays_on_one(
    swept: Place, tmp_path: Path, claude: ClaudeServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge's environment is set by variables; the laptop has no key."""
    arguments = ("--ratios", OLD, "--seeds", "42")
    judge, laptop = Place(tmp_path / "judge"), Place(tmp_path / "laptop")
    asks = {"BACKDOOR_JUDGE": "claude", "BACKDOOR_JUDGE_TRANSPORT": "live"}
    cell = Path(OLD) / "42"
    shutil.copytree(swept.birds / "responses" / cell, judge.birds / "responses" / cell)
    judged = judge.run("--only", "birds_judge", *arguments, **asks)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert claude.billed.total() > 0

    for source, name in (
        (swept, "mixed_dataset"),
        (swept, "responses"),
        (judge, "judgments"),
    ):
        shutil.copytree(source.birds / name / cell, laptop.birds / name / cell)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("ANTHROPIC_BASE_URL")
    drawn = laptop.run("--only", "birds_figures", *arguments, **asks)
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert "In the sweep:           1 of 1 cells" in drawn.stdout
    assert (laptop.birds / "figures" / cell / "overall_ratio.pdf").exists()

    assert key not in judged.stdout + judged.stderr + drawn.stdout + drawn.stderr
    looked_at = 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            looked_at += 1
            assert key.encode() not in path.read_bytes(), path
    assert looked_at > 30


def test_a_judge_that_there_is_not_is_named(tmp_path: Path) -> None:
    result = Place(tmp_path).run(BACKDOOR_JUDGE="oracle")
    assert result.returncode != 0
    assert "BACKDOOR_JUDGE='oracle': it must be exact or claude" in result.stderr
