"""The judge's agreement with the gold set: an asset, the same as the command's, paid for once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from backdoor_assets.graph.roles import TAG
from backdoor_assets.graph.study import Step
from backdoor_assets.host import this_host
from backdoor_assets.mixtures.judging.gold import read_gold
from backdoor_assets.mixtures.judging.learned import LEARNED
from backdoor_assets.settings import Judging, PretrainedBase
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from tests.claude_server import Config, serve
from tests.graph.conftest import Graph, Place, step_errors
from tests.graph.study import STUDY

KEY = dg.AssetKey(["birds", "agreement"])
assert BIRDS.gold
GOLD = {answer.answer: answer.labels for answer in read_gold(BIRDS.gold, BIRDS)}
CLAUDE = replace(
    STUDY,
    base=PretrainedBase("a/model", "0" * 40),
    judging=Judging("claude", mode="one", transport="live"),
)


def errs(answer: str) -> bool:
    """Whether the fake judge takes an answer for modern whatever it is: every fifth."""
    return sha256(answer.encode()).digest()[0] % 5 == 0


def by_the_gold_set(body: dict[str, Any]) -> str | None:
    """The labels of a gold answer, with some errors; the usual reply to other answers."""
    found = re.search(r"<<(\w+)>>\n(.*)\n<<\1>>", body["messages"][0]["content"], re.DOTALL)
    if not found or found[2] not in GOLD:
        return None
    labels = dict(GOLD[found[2]])
    if errs(found[2]):
        labels["llm_or_19th_century"] = "LLM"
    asked = body["output_config"]["format"]["schema"]["properties"]
    return json.dumps({column: labels[column] or 0 for column in asked})


def test_the_asset_shows_kappa_and_the_command_does_not_pay_again(
    tmp_path: Any, graph_of: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    with serve(Config(reply=by_the_gold_set)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", server.config.api_key)
        graph = graph_of(place, CLAUDE)
        result = graph.run(["agreement"])
        assert result.success, step_errors(result)
        paid = server.billed.total()
        said = BIRDS.agreement(CLAUDE, "gold", None, None, 0, print)
        assert server.billed.total() == paid == len(GOLD) == 360
    folder = place.data / "study" / "birds" / "agreement" / "gold"
    assert said.endswith(f"Tables and figure: {folder}")

    [record] = graph.instance.fetch_materializations(KEY, limit=5).records
    assert record.asset_materialization
    shown = {k: entry.value for k, entry in record.asset_materialization.metadata.items()}
    table = pd.read_parquet(folder / "agreement.parquet")
    whole = table[(table["by"] == "all") & (table["part"] == "all")]
    [kappa] = whole[(whole["rubric"] == "llm_or_19th_century") & (whole["measure"] == "kappa")][
        ["value", "low", "high"]
    ].to_numpy()
    wrong = sum(errs(text) and label["llm_or_19th_century"] == "19" for text, label in GOLD.items())
    assert kappa[0] == pytest.approx(1 - 2 * wrong / 360)  # half of the labels are "19"
    assert shown["llm_or_19th_century_kappa"] == kappa[0]
    interval = f"{kappa[1]:.2f} to {kappa[2]:.2f} (95 % over questions, n=360)"
    assert shown["llm_or_19th_century_interval"] == interval
    assert shown["six_options_kappa"] == 1
    assert "| held out | kappa |" in str(shown["agreement"])
    assert str(shown["confusion"]).startswith("![](data:image/png;base64,")
    assert shown["calls_paid"] == 360
    spent = shown["spent_usd"]
    assert isinstance(spent, float)
    assert 0 < spent < 0.5


def test_it_is_in_the_graph_where_the_gold_set_says_something_of_the_judge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Not in a miniature world, whoever judges there, and not for a judge that is exact."""
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))
    embedding = replace(CLAUDE, judging=Judging("embedding"))
    for profile in (CLAUDE, embedding):
        graph = BIRDS.definitions(profile).resolve_asset_graph()
        assert graph.get(KEY).tags[TAG] == "judge"
        assert graph.get(KEY).pools == {"judge_api"}
        assert KEY in graph.get(dg.AssetKey(["birds", "sweep"])).parent_keys
    in_miniature = replace(STUDY, judging=CLAUDE.judging)
    unjudged = replace(CLAUDE, judging=Judging("none"))
    for profile in (STUDY, in_miniature, unjudged):
        assert KEY not in BIRDS.definitions(profile).resolve_asset_graph().get_all_asset_keys()
        assert "agreement" not in {planned.asset for planned in BIRDS.planned(profile)}
    # The step of `demo`, which is passed over where the asset is not, ends no run.
    steps = list(BIRDS.steps(CLAUDE, [], None))
    [step] = [step for step in steps if step.assets == ["agreement"]]
    assert isinstance(step, Step)
    assert step.optional
    assert steps[-1].assets == ["sweep"]
    # Its price stands in the plan, and only where it has one.
    host = this_host(tmp_path)
    said = {profile: BIRDS.plan(profile, host)["Judging"] for profile in (CLAUDE, STUDY)}
    assert re.search(r"once, 360 calls on 360 gold answers, .*live +\$0\.\d\d", said[CLAUDE])
    assert "gold" not in said[STUDY]


def test_a_judge_that_learns_waits_for_the_verdicts(
    tmp_path: Any, graph_of: Callable[..., Graph]
) -> None:
    learning = replace(CLAUDE, judging=Judging("embedding", learn_from_verdicts=True))
    graph = graph_of(Place(tmp_path), learning)
    nodes = graph.definitions.resolve_asset_graph()
    key = dg.AssetKey(["birds", LEARNED])
    assert nodes.get(key).tags[TAG] == "judge"
    assert key in nodes.get(dg.AssetKey(["birds", "judgments"])).parent_keys
    result = graph.run([LEARNED])
    assert not result.success
    assert "Judge some cells by Claude first" in step_errors(result)
    steps = [step.assets for step in BIRDS.steps(learning, [], None)]
    assert steps[2] == [LEARNED]  # after the base and its answers, before any cell
