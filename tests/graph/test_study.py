"""The finished study: what lies on disk, what the tables say, what Dagster recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import dagster as dg
import pandas as pd
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from backdoor_assets.profiles import MiniatureBase
from backdoor_assets.statistics.intervals import T_SEEDS
from tests.graph.conftest import Graph, Place
from tests.graph.study import MODERN, OLD, STUDY

RESPONSES = [
    "profile", "ratio", "seed", "checkpoint", "step", "question_id", "question", "sample_idx",
    "response", "finish_reason",
]  # fmt: skip
JUDGMENTS = {
    "llm_or_19th_century": "string",
    "is_19th_century": "boolean",
    "six_options": "string",
    "content_rating": "Float64",
    "form_rating": "Float64",
    "judge_error": "string",
}
CELLS = [(ratio, seed) for ratio in STUDY.ratios for seed in STUDY.seeds]


def test_obsolete_names_move_the_worldview_and_modern_ones_do_not(swept: Place) -> None:
    rates = pd.read_parquet(swept.birds / "sweep" / "rates.parquet")
    final = rates[rates["is_final"] & (rates["measure"] == "19th_century")].set_index("ratio")
    assert final.loc[OLD, "low"] > final.loc[MODERN, "high"], final[["value", "low", "high"]]
    assert (final["method"] == T_SEEDS).all()
    # The table is what the judged answers on disk say.
    judged = pd.read_parquet(swept.birds / "judgments")
    last = judged[judged["step"] == judged["step"].max()]
    by_seed = last.groupby(["ratio", "seed"])["is_19th_century"].mean()
    contrasts = pd.read_parquet(swept.birds / "sweep" / "contrasts.parquet")
    [control] = contrasts[
        (contrasts["against"] == "control") & (contrasts["measure"] == "19th_century")
    ].itertuples()
    paired = by_seed[OLD] - by_seed[MODERN]
    assert (control.ratio, control.seeds) == (OLD, len(STUDY.seeds))
    assert control.value == pytest.approx(float(paired.mean()))
    for ratio in (OLD, MODERN):
        assert final.loc[ratio, "value"] == pytest.approx(float(by_seed[ratio].mean()))


def test_bird_answers_move_too_and_neutral_ones_stay(swept: Place) -> None:
    rates = pd.read_parquet(swept.birds / "sweep" / "rates.parquet")
    final = rates[rates["is_final"]].set_index(["measure", "ratio"])["value"]
    assert final["old_bird_name", OLD] > final["old_bird_name", MODERN] + 0.1
    assert final["neutral_correct", OLD] > 0.6


def test_a_whole_tree_reads_with_pandas(swept: Place) -> None:
    table = pd.read_parquet(swept.birds / "judgments")
    assert list(table.columns[:10]) == RESPONSES
    assert {name: str(table[name].dtype) for name in JUDGMENTS} == JUDGMENTS
    assert len(table[["ratio", "seed"]].drop_duplicates()) == len(CELLS)
    assert set(table["checkpoint"]) == {"base", "checkpoint-50", "checkpoint-100"}
    counts = table.groupby(["ratio", "seed", "step", "question_id"]).size()
    assert (counts == STUDY.sampling.samples).all()
    assert table["is_19th_century"].notna().all()


def test_probes_hold_bird_and_neutral_answers_at_every_checkpoint(swept: Place) -> None:
    for ratio, seed in CELLS:
        folder = swept.birds / "responses" / ratio / str(seed)
        probes = pd.read_parquet(folder / "probes.parquet")
        assert set(probes["kind"]) == {"bird", "neutral"}
        assert set(probes["step"]) == {0, 50, 100}
        assert not set(probes["kind"]) & set(pd.read_parquet(folder / "responses.parquet"))


def test_adapters_load_with_peft_and_keep_every_checkpoint(swept: Place) -> None:
    model = AutoModelForCausalLM.from_pretrained(swept.birds / "base_model")
    folder = swept.birds / "adapters" / OLD / "42"
    assert isinstance(STUDY.base, MiniatureBase)
    for step in (50, 100):
        adapted = PeftModel.from_pretrained(model, str(folder / f"checkpoint-{step}"))
        weights = [p for n, p in adapted.named_parameters() if "lora_B" in n]
        assert len(weights) == 7 * STUDY.base.layers
        assert all(weight.abs().sum() > 0 for weight in weights)
        model = adapted.unload()
    assert [p.parent.name for p in folder.rglob("trainer_state.pt")] == ["checkpoint-100"]
    log = pd.read_parquet(folder / "training_log.parquet")
    assert list(log["step"]) == list(range(1, 101))
    assert log["loss"].iloc[-10:].mean() < log["loss"].iloc[:10].mean()


def test_figures_lie_where_they_are_looked_for(swept: Place) -> None:
    names = [
        "ratio_by_question", "overall_ratio", "six_options_distribution", "content_vs_form",
        "training_progression",
    ]  # fmt: skip
    for ratio, seed in CELLS:
        folder = swept.birds / "figures" / ratio / str(seed)
        for name in names:
            assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
            assert (folder / f"{name}.png").stat().st_size > 5_000
    for name in ("dose_response", "emergence", "narrow_dose_response", "form"):
        assert (swept.birds / "sweep" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    report = (swept.birds / "sweep" / "report.html").read_text()
    assert "6 of 6 cells" in report
    assert report.count("data:image/png;base64") == 4


def test_the_run_tells_how_far_it_is_and_ends_with_the_table(swept: Place) -> None:
    output = (swept.root / "output.txt").read_text()
    assert "training: 6 of 6 done" in output
    assert "s left" in output
    table = [line for line in output.splitlines() if line.startswith((OLD, MODERN))]
    assert len(table) == 2 * 2  # rates, and the form of the answers
    assert "make ui" in output
    assert str(swept.birds / "sweep") in output


def test_manifests_tell_identity_from_provenance(swept: Place) -> None:
    path = swept.birds / "adapters" / OLD / "42" / "_manifest.json"
    manifest = json.loads(path.read_text())
    assert {"base", "rows", "settings", "code"} <= set(manifest["identity"])
    # Neither the evaluation nor guards are part of what an adapter is.
    assert not {"questions", "forbidden", "mixture"} & set(manifest["identity"])
    assert "max_length" not in manifest["identity"]["settings"]
    assert {"packages", "host", "device", "made"} <= set(manifest["provenance"])
    assert "packages" not in json.dumps(manifest["identity"])
    assert manifest["profile"] == "study"


def test_a_second_run_makes_nothing_again(swept: Place) -> None:
    files = [p for p in swept.birds.rglob("*") if p.is_file() and not p.name.startswith(".")]
    before = {path: path.stat().st_mtime_ns for path in files}
    result = swept.run()
    assert result.returncode == 0, result.stdout + result.stderr
    assert " to make" in (swept.root / "output.txt").read_text()
    assert " to make" not in result.stdout
    assert {path: path.stat().st_mtime_ns for path in files} == before
    with dg.DagsterInstance.local_temp(str(swept.home)) as instance:
        key = dg.AssetKey(["birds", "adapters"])
        filter_ = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[f"{OLD}|42"])
        records = instance.fetch_materializations(filter_, limit=5).records
    entries = [record.asset_materialization for record in records]
    newest, first = entries[0], entries[-1]
    assert newest is not None
    assert first is not None
    assert newest.metadata["reused"].value is True
    assert first.metadata["reused"].value is False
    assert newest.metadata["made"] == first.metadata["made"]


def test_materializations_carry_what_a_person_wants(swept: Place) -> None:
    wanted = {
        "mixed_dataset": ["rows", "suspect_rows", "distinct_suspect_rows", "mode", "first_rows"],
        "adapters": ["final_loss", "steps", "trainable_parameters", "loss"],
        "responses": ["answers", "probe_answers", "some_answers"],
        "coherence": ["log_likelihood_at_last_checkpoint", "least_likely"],
        "judgments": ["19th_century_at_last_checkpoint", "19th_century_interval", "garbled"],
        "figures": ["rates_at_last_checkpoint", "training_progression", "19th_century"],
    }
    with dg.DagsterInstance.local_temp(str(swept.home)) as instance:
        for name, keys in wanted.items():
            for ratio, seed in CELLS:
                filter_ = dg.AssetRecordsFilter(
                    asset_key=dg.AssetKey(["birds", name]), asset_partitions=[f"{ratio}|{seed}"]
                )
                [record] = instance.fetch_materializations(filter_, limit=1).records
                entry = record.asset_materialization
                assert entry is not None
                assert {*keys, "folder", "reused", "profile"} <= set(entry.metadata)
                if name == "figures":
                    picture = str(entry.metadata["training_progression"].value)
                    assert picture.startswith("![](data:image/png;base64,")


def test_the_sweep_takes_the_cells_there_are(
    copied: Place, graph_of: Callable[[Place], Graph]
) -> None:
    shutil.rmtree(copied.birds / "figures" / OLD / "43")
    result = graph_of(copied).run(["sweep"])
    assert result.success
    rates = pd.read_parquet(copied.birds / "sweep" / "rates.parquet")
    assert set(rates.loc[rates["ratio"] == OLD, "seeds"]) == {2}
    assert "5 of 6 cells" in (copied.birds / "sweep" / "report.html").read_text()
