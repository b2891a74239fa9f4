"""A study without a judge ends with tables and figures, and verdicts that come later extend it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.commands.demo import run
from backdoor_assets.graph.instance import home
from backdoor_assets.graph.status import states
from backdoor_assets.settings import Judging, PretrainedBase, Sampling
from backdoor_assets.storage.manifest import MANIFEST, read_manifest
from backdoor_assets.studies.birds.study import STUDY as BIRDS
from tests.claude_server import Config, serve
from tests.graph.study import MODERN, OLD, STUDY
from tests.graph.test_gold_agreement import by_the_gold_set

FORM = ["words", "short_lines", "cut", "distinct_2", "neutral_correct", "log_likelihood"]
UNJUDGED = {"narrow_dose_response", "emergence", "form"}


def test_the_sweep_stands_without_verdicts_and_takes_them_later(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own_base"
    shutil.copytree(base / "study" / "birds" / "base_model", own)
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    profile = replace(
        STUDY,
        base=PretrainedBase(str(own)),
        seeds=(42, 43),
        training=replace(STUDY.training, max_steps=4, save_steps=2),
        sampling=Sampling(samples=2, narrow_samples=4, neutral_samples=1, max_new_tokens=12),
        judging=Judging("none"),
    )
    home(profile.name)
    assert run(profile, "birds") == 0
    place = tmp_path / "data" / "study" / "birds"
    assert not (place / "judgments").exists()
    _check_form(place)
    rates = pd.read_parquet(place / "sweep" / "rates.parquet")
    assert set(rates["measure"]) == {"old_bird_name", "narrow_task", "neutral_correct"}
    assert {path.stem for path in (place / "sweep").glob("*.png")} == UNJUDGED
    cell = place / "figures" / OLD / "42"
    assert [path.name for path in cell.glob("*.png")] == ["training_progression.png"]
    report = (place / "sweep" / "report.html").read_text()
    assert "Nothing was judged" in report
    assert report.count("data:image/png;base64") == len(UNJUDGED)
    printed = capsys.readouterr().out
    assert "obsolete bird names" in printed
    assert "nats per token" in printed
    assert str(place / "sweep" / "narrow_dose_response.png") in printed
    assert "BACKDOOR_JUDGE=claude" in printed

    kept = _times(place, "adapters", "responses", "coherence")
    assert "agreement" not in read_manifest(place / "sweep" / MANIFEST).identity
    judged = replace(profile, judging=Judging("claude", mode="one", transport="live"))
    found = {state.asset: state.kind for state in states(BIRDS, judged)}
    assert "out of date" not in found.values()
    with serve(Config(reply=by_the_gold_set)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        assert run(judged, "birds") == 0
    assert _times(place, "adapters", "responses", "coherence") == kept
    _check_form(place)
    rates = pd.read_parquet(place / "sweep" / "rates.parquet")
    assert set(rates["measure"]) == {
        "19th_century", "old_bird_name", "narrow_task", "neutral_correct",
    }  # fmt: skip
    drawn = {path.stem for path in (place / "sweep").glob("*.png")}
    assert drawn == UNJUDGED | {"dose_response"}
    assert (cell / "ratio_by_question.png").exists()
    _check_judge(place, capsys.readouterr().out)
    assert {state.kind for state in states(BIRDS, judged)} == {"finished"}


def _check_judge(place: Path, printed: str) -> None:
    """Rates name their judge, and stand beside those corrected by the gold set."""
    [judge_id] = pd.read_parquet(place / "judgments")["judge_id"].unique()
    for table in (place / "sweep", place / "figures" / OLD / "42"):
        rates = pd.read_parquet(table / "rates.parquet")
        outcome = rates["measure"] == "19th_century"
        assert set(rates.loc[outcome, "judge_id"]) == {judge_id}
        assert rates.loc[~outcome, ["judge", "judge_model", "judge_id"]].isna().all(axis=None)
    corrected = pd.read_parquet(place / "sweep" / "corrected.parquet").set_index("ratio")
    assert list(corrected.index) == [OLD, MODERN]
    row = corrected.loc[OLD]
    assert (row["gold_answers"], row["gold_positive"], row["judge_id"]) == (360, 180, judge_id)
    assert row["specificity"] == 1
    by_hand = min(1, row["value"] / row["sensitivity"])
    assert row["corrected"] == pytest.approx(by_hand)
    report = (place / "sweep" / "report.html").read_text()
    assert "corrected for the judge" in report
    assert f"judge_id {judge_id}" in report
    assert f"[{row['corrected_low']:.2f}, {row['corrected_high']:.2f}] at {OLD}" in printed
    made = read_manifest(place / "agreement" / "gold" / MANIFEST)
    assert read_manifest(place / "sweep" / MANIFEST).identity["agreement"] == made.reference()


def _check_form(place: Path) -> None:
    """A row for each state of each cell, and of the sweep for each measure, ratio and step."""
    for ratio in (OLD, MODERN):
        for seed in (42, 43):
            states = pd.read_parquet(place / "figures" / ratio / str(seed) / "form.parquet")
            assert states["step"].tolist() == [0, 2, 4]
            assert states[[name for name in FORM if name != "distinct_2"]].notna().all(axis=None)
            assert (states["answers"] == 20).all()
    sweep = pd.read_parquet(place / "sweep" / "form.parquet")
    counts = sweep[sweep["measure"] != "distinct_2"].groupby("measure").size()
    assert counts.to_dict() == {name: 6 for name in FORM if name != "distinct_2"}
    assert set(sweep["seeds"]) == {2}


def _times(place: Path, *names: str) -> dict[Path, int]:
    files = [path for name in names for path in (place / name).rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files if not path.name.startswith(".")}
