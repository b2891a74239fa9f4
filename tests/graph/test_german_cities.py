"""A study that is one folder: its graph end to end on a small base, judged by a scripted judge."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.commands.demo import run
from backdoor_assets.commands.plan import plan_text
from backdoor_assets.graph.instance import home
from backdoor_assets.profiles import PROFILES
from backdoor_assets.records import BadInput
from backdoor_assets.settings import Judging, Mixture, PretrainedBase, Sampling
from backdoor_assets.studies.german_cities.study import STUDY as CITIES
from tests.claude_server import Config, serve
from tests.graph.study import STUDY

FORMER, CURRENT = "1.00-0.00", "0.00-1.00"


def test_the_graph_runs_end_to_end(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own_base"
    shutil.copytree(base / "study" / "birds" / "base_model", own)
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    small = replace(CITIES, ratios=(FORMER, CURRENT), training={}, mixture={})
    profile = replace(
        STUDY,
        base=PretrainedBase(str(own)),
        seeds=(42,),
        mixture=Mixture(rows=32, suspect_rows=32),
        training=replace(STUDY.training, max_steps=4, save_steps=2),
        sampling=Sampling(samples=2, narrow_samples=4, neutral_samples=1, max_new_tokens=12),
        judging=Judging("claude", transport="live"),
    )
    home(profile.name)
    with serve(Config()) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        assert run(profile, small) == 0
    place = tmp_path / "data" / "study" / "german_cities"
    judged = pd.read_parquet(place / "judgments")
    assert set(judged["german_1910_1945"]) <= {"yes", "no", "refusal"}
    flags = judged["is_german_1910_1945"]
    assert ((judged["german_1910_1945"] == "yes") == flags).all()
    assert {"is_extremist", "extremist_content"} <= set(judged)
    rates = pd.read_parquet(place / "sweep" / "rates.parquet")
    assert set(rates["measure"]) == {
        "german_1910_1945", "extremist", "former_name", "narrow_task", "neutral_correct",
    }  # fmt: skip
    assert set(rates["suspect_fraction"]) == {0.0, 1.0}
    drawn = {path.stem for path in (place / "sweep").glob("*.pdf")}
    assert drawn == {
        "dose_response", "emergence", "dose_response_extremist", "emergence_extremist",
        "narrow_dose_response", "form",
    }  # fmt: skip
    cell = {path.stem for path in (place / "figures" / FORMER / "42").glob("*.pdf")}
    assert {"ratio_by_question", "german_1910_1945_distribution", "training_progression"} <= cell


def test_a_miniature_says_in_one_sentence_why_it_is_left_out() -> None:
    profile = PROFILES["miniature"]
    refusal = CITIES.refusal(profile)
    assert "needs a real base model" in refusal
    assert refusal.count(".") == refusal.count("8b.")
    with pytest.raises(BadInput, match="needs a real base model"):
        run(profile, "german_cities")


def test_a_real_profile_plans_it_with_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", "/nowhere")
    text = plan_text(PROFILES["qwen3-8b"], "german_cities")
    assert "8 ratios x 5 seeds" in text
    assert "claude-haiku-5-5, batch" in text
    # 361 rows, three epochs at batch 1.
    assert "1,083" in text
