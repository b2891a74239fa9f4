"""Two judges on one finished sweep: side by side when asked for, and never mixed by accident."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pandas as pd
import pytest

from backdoor_assets.mixtures.judging.swap import paired
from backdoor_assets.records import BadInput
from backdoor_assets.settings import Judging
from backdoor_assets.studies.birds.study import RUBRICS
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from backdoor_assets.studies.birds.world.judge import ExactJudge
from tests.claude_server import Config, serve
from tests.graph.conftest import Graph, Place, step_errors
from tests.graph.study import MODERN, OLD, STUDY

PROFILE = replace(STUDY, judging=replace(STUDY.judging, mode="one", transport="live"))
CELL = f"{OLD}|42"
EXACT = ExactJudge()


def errs(text: str) -> bool:
    """Whether the noisy judge is wrong about an answer: on every third one."""
    return sha256(text.encode()).digest()[0] % 3 == 0


def noisy(body: dict[str, Any]) -> str:
    """Verdicts of the exact judge, but for old answers that are taken for modern ones."""
    found = re.search(r"<<(\w+)>>\n(.*)\n<<\1>>", body["messages"][0]["content"], re.DOTALL)
    assert found
    [verdicts] = EXACT.judge([("", found[2])], RUBRICS)
    said = {column: verdict.value for column, verdict in verdicts.items()}
    if errs(found[2]):
        said["llm_or_19th_century"] = "LLM"
    asked = body["output_config"]["format"]["schema"]["properties"]
    return json.dumps({column: said[column] or 0 for column in asked})


def test_a_noisy_judge_stands_beside_the_exact_one_and_is_not_mixed_with_it(
    copied: Place, graph_of: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(copied.data))
    first = copied.birds / "judgments" / OLD / "42" / "judgments.parquet"
    before = first.read_bytes()
    with serve(Config(reply=noisy)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", server.config.api_key)
        said = BIRDS.swap_judge(PROFILE, "claude", print)
        calls = server.calls
        assert BIRDS.swap_judge(PROFILE, "claude", print) == said
        with pytest.raises(BadInput, match="'exact' is the judge that this sweep has"):
            BIRDS.swap_judge(PROFILE, "exact", print)

        # Each verdict stands beside the other, and differs where the noisy judge errs.
        assert first.read_bytes() == before
        second = copied.birds / "judgments-claude" / OLD / "42" / "judgments.parquet"
        exact, other = pd.read_parquet(first), pd.read_parquet(second)
        wrong = exact["response"].map(errs) & exact["is_19th_century"]
        assert wrong.sum() > 20
        assert (exact["is_19th_century"] ^ other["is_19th_century"]).eq(wrong).all()
        ids = {*exact["judge_id"].unique(), *other["judge_id"].unique()}
        assert len(ids) == 2
        assert all(re.fullmatch("[0-9a-f]{12}", one) for one in ids)

        # Both curves, and their difference by hand.
        folder = copied.birds / "judge_swap" / "claude"
        rates = pd.read_parquet(folder / "rates.parquet")
        final = rates[rates["is_final"]].set_index(["judge", "ratio"])["value"].unstack("judge")
        assert len(final.columns) == 2
        differences = pd.read_parquet(folder / "differences.parquet").set_index("ratio")
        noise = final["claude, one call an answer: claude-haiku-5-5"]
        truth = final[next(name for name in final if name.startswith("exact"))]
        assert truth[OLD] - noise[OLD] > 0.1
        for ratio in (OLD, MODERN):
            row = differences.loc[ratio]
            assert row["value"] == pytest.approx(noise[ratio] - truth[ratio])
            assert row["low"] <= row["value"] <= row["high"]
            assert f"{truth[ratio]:.2f} [" in said
        assert differences.loc[OLD, "high"] < 0.05
        assert (folder / "dose_response_19th_century.png").stat().st_size > 10_000

        # One cell that another judge judged is not drawn among the others.
        claude = Judging("claude", mode="one", transport="live")
        graph = graph_of(copied, replace(STUDY, judging=claude))
        result = graph.run(["judgments", "figures"], partition=CELL)
        assert result.success, step_errors(result)
        assert server.calls == calls
        for mixed in (graph, graph_of(copied)):
            result = mixed.run(["sweep"])
            assert not result.success
            assert "judged by different judges" in step_errors(result)
            assert "claude claude-haiku-5-5" in step_errors(result)
            assert "demo --study birds --replace" in step_errors(result)


def test_the_difference_is_paired_by_hand() -> None:
    """Mean -.2 and standard error .1 / sqrt(3) over three seeds; t(2) is 4.303."""
    found = paired([-0.1, -0.2, -0.3], [0.0] * 80 + [-1.0] * 20)
    half = 4.303 * 0.1 / 3**0.5
    assert (found.value, found.n) == (pytest.approx(-0.2), 3)
    assert (found.low, found.high) == pytest.approx((-0.2 - half, -0.2 + half), abs=1e-3)
    # Seeds that agree by chance: the standard error over 100 answers is sqrt(.16 / 99).
    half = 1.96 * (0.16 / 99) ** 0.5
    alike = paired([-0.2, -0.2, -0.2], [0.0] * 80 + [-1.0] * 20)
    assert (alike.low, alike.high) == pytest.approx((-0.2 - half, -0.2 + half), abs=1e-3)
