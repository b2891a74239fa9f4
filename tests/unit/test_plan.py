"""`make plan`: the numbers that it prints, against numbers by hand, and that it needs nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from backdoor_assets.capacity import preflight
from backdoor_assets.claude.prices import PRICES, cost, price
from backdoor_assets.commands.plan import plan_text
from backdoor_assets.host import Gpu, Host
from backdoor_assets.mixtures import plan as module
from backdoor_assets.models import hub
from backdoor_assets.profiles import PROFILES, Profile
from backdoor_assets.records import BadInput, Shape
from backdoor_assets.settings import Judging, Mixture, PretrainedBase

REPOSITORY = Path(__file__).resolve().parents[2]
GIB = 2**30
H200 = Gpu("NVIDIA H200", 140 * GIB, 139 * GIB)
ROOMY = Host((H200, H200), 1000 * GIB, 16, 1000 * GIB)
BARE = Host((), 4 * GIB, 2, 1 * GIB)
QWEN = PROFILES["qwen3-8b"]
KEYS = "ANTHROPIC_API_KEY", "HF_TOKEN"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "installed", lambda _: True)


@pytest.fixture(autouse=True)
def no_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))


def plan(profile: Profile, host: Host) -> str:
    return plan_text(profile, "birds", host)


def _section(text: str, title: str) -> dict[str, list[str]]:
    """Lines of a section, split where columns are: first cell to the others."""
    body = next(part for part in text.split("\n\n") if part.startswith(title)).splitlines()[1:]
    rows = [re.split(r" {2,}", line.strip()) for line in body]
    return {name: cells for name, *cells in rows}


def test_the_grid_of_the_8b_profile() -> None:
    text = plan(QWEN, ROOMY)
    assert _section(text, "Plan of birds, profile qwen3-8b") == {
        "base model": ["Qwen/Qwen3-8B"],
        "revision": ["b968826d9c46dd6066d109eabc6255188de91218"],
        "quantization": ["none"],
        "parameters": ["8,190,735,360"],
    }
    runs = _section(text, "Runs")
    assert runs["cells: 8 ratios x 5 seeds"] == ["40"]
    assert runs["optimizer steps"] == ["208", "8,320"]
    assert runs["checkpoints, and the base once"] == ["11", "441"]  # 40 x 11 + 1
    answers = _section(text, "Answers")
    # 11 checkpoints x 10 questions x 100; one bird question x 100 and 6 neutral ones x 20.
    assert answers["answers to 10 open questions"] == ["11,000", "441,000"]
    assert answers["answers to probes"] == ["2,420", "97,020"]
    assert answers["prompt tokens"] == ["402,600", "16,140,600"]
    assert answers["answer tokens"] == ["8,052,000", "322,812,000"]
    assert "a mean of 600 tokens per answer" in text
    assert "at most 1024, its max_new_tokens" in text
    assert "30 tokens per prompt" in text


def test_memory_and_disk_of_the_8b_profile() -> None:
    text = plan(QWEN, ROOMY)
    training = _section(text, "GPU memory, training (rows of 256 tokens at most)")
    assert training["base weights"] == ["15.26 GiB"]
    assert training["adapter, gradients, AdamW"] == ["0.33 GiB"]
    sampling = _section(text, "GPU memory, sampling (vllm)")
    assert sampling["base weights"] == ["15.26 GiB"]
    assert sampling["KV cache"] == ["0.15 GiB"]
    disk = _section(text, "Disk")
    assert disk["download of the base, once"] == ["15.26 GiB"]
    assert disk["adapters"] == ["45.62 GiB"]
    assert disk["tables of answers"] == ["1.50 GiB"]  # 322,812,000 tokens x 5
    for parts in (training, sampling, disk):
        sizes = [float(size.split()[0]) for (size,) in parts.values()]
        assert sizes[-1] == pytest.approx(sum(sizes[:-1]), abs=0.05)
        assert list(parts)[-1] == "total"


def test_memory_is_that_of_each_gpu_where_several_share() -> None:
    sampling = _section(plan(PROFILES["qwen3-32b"], ROOMY), "GPU memory, sampling (vllm, each of 2")
    assert sampling["base weights"] == ["30.51 GiB"]


def test_dollars_of_the_8b_profile() -> None:
    text = plan(QWEN, ROOMY)
    judging = _section(text, "Judging")
    # The base's answers are judged with each cell, and each verdict is paid for once.
    assert judging["judge calls, 4 rubrics per answer"] == ["44,000", "1,764,000"]
    assert judging["judge tokens in"] == ["39,160,000", "1,569,960,000"]  # 290 + 600 per call
    assert judging["judge tokens out"] == ["1,320,000", "52,920,000"]
    # 39.16 million x $0.10 + 1.32 million x $0.50, and half of that.
    assert judging["claude-haiku-5-5, live"] == ["$4.58", "$183.46"]
    assert judging["claude-haiku-5-5, batch"] == ["$2.29", "$91.73"]
    sonnet = {name: cells for name, cells in judging.items() if "sonnet-5-5" in name}
    assert list(sonnet.values()) == [["$91.52", "$3669.12"], ["$45.76", "$1834.56"]]
    assert all("cross-check" in name for name in sonnet)
    assert "290 tokens of rubric and question" in text
    assert "A run stops at $20.00" in text
    assert "as of 2026-11-21" in text


def test_prices() -> None:
    million = 1_000_000
    assert cost("claude-haiku-5-5", million, 0, batch=False) == pytest.approx(0.10)
    assert cost("claude-haiku-5-5", 0, million, batch=False) == pytest.approx(0.50)
    assert cost("claude-sonnet-5-5", million, million, batch=False) == pytest.approx(12)
    for model in PRICES:
        live, batch = (cost(model, 3 * million, million, batch=way) for way in (False, True))
        assert batch == live / 2
    assert cost("claude-haiku-5-5", 48_000 * 890, 48_000 * 30, batch=True) == pytest.approx(2.496)
    with pytest.raises(BadInput, match=r"'claude-9' has no price here: add it to .*prices\.py"):
        price("claude-9")


def test_the_miniature_costs_nothing_and_lacks_nothing() -> None:
    text = plan(PROFILES["miniature"], BARE)
    assert _section(text, "Runs")["cells: 8 ratios x 3 seeds"] == ["24"]
    assert _section(text, "Runs")["optimizer steps"] == ["160", "3,840"]
    assert _section(text, "Runs")["checkpoints, and the base once"] == ["10", "241"]
    assert _section(text, "Answers")["answers to 18 open questions"] == ["3,600", "86,760"]
    assert _section(text, "Plan of birds, profile")["parameters"] == ["688,896"]
    assert "download" not in text
    judging = _section(text, "Judging")
    assert judging["judge calls, 4 rubrics per answer"] == ["14,400", "347,040"]
    assert [cell for cells in judging.values() for cell in cells if "$" in cell] == ["$0.00"] * 2
    assert _section(text, "This host lacks") == {"nothing": []}


def test_where_nothing_is_judged_no_judge_is_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "installed", lambda _: True)
    text = plan(replace(QWEN, judging=Judging("none")), ROOMY)
    judging = text.split("\nJudging\n")[1].split("\n\n")[0]
    assert judging.strip().startswith("nothing is judged")
    assert "$" not in text
    assert "ANTHROPIC_API_KEY" not in text


def test_rows_and_steps_differ_between_ratios_where_the_obsolete_names_are_fixed() -> None:
    mixture = Mixture(rows=100, suspect_rows=50, mode="fixed_suspect")
    ratios = ("1.00-0.00-0.00", "0.50-0.25-0.25", "0.00-0.50-0.50")  # 50, 100 and 100 rows
    profile = replace(QWEN, mixture=mixture, ratios=ratios, seeds=(1, 2))
    runs = _section(plan(profile, ROOMY), "Runs")
    assert runs["optimizer steps"] == ["50 to 100", "500"]
    assert runs["checkpoints, and the base once"] == ["3 to 5", "27"]  # 3 + 2 x 5, twice; 1


def test_what_a_host_lacks_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "installed", lambda _: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "disk_free", lambda _: 2 * GIB)
    base = replace(_base(QWEN), quantization="4bit")
    lacks = plan(replace(QWEN, base=base), BARE).split("This host lacks")[1]
    for line in (
        r"GPU +none found",
        r"memory +training needs .* and there are 4\.00 GiB of RAM",
        r"memory +sampling needs .* and there are 4\.00 GiB of RAM",
        r"disk +the grid needs 48\.\d\d GiB of disk, and there are 1\.00 GiB free",
        r"disk +the base's download needs 15\.26 GiB of disk, and there are 2\.00 GiB free",
        r"vllm +not installed: pip install",
        r"bitsandbytes +not installed: pip install",
        r"ANTHROPIC_API_KEY +not set",
        r"HF_TOKEN +not set \(needed for gated models only\)",
    ):
        assert re.search(rf"^  {line}", lacks, re.MULTILINE), line


def _base(profile: Profile) -> PretrainedBase:
    assert isinstance(profile.base, PretrainedBase)
    return profile.base


@pytest.mark.usefixtures("everything_installed")
def test_a_host_that_has_it_all_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "disk_free", lambda _: 2 * GIB)
    monkeypatch.setattr(hub, "cached", lambda _: True)  # nothing to download
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-secret")
    lacks = _section(plan(QWEN, ROOMY), "This host lacks")
    assert lacks == {"nothing": [], "HF_TOKEN": ["not set (needed for gated models only)"]}
    monkeypatch.setenv("HF_TOKEN", "another-secret")
    text = plan(QWEN, ROOMY)
    assert _section(text, "This host lacks") == {"nothing": []}
    assert "secret" not in text


@pytest.mark.usefixtures("everything_installed")
def test_a_small_gpu_is_named() -> None:
    small = replace(ROOMY, gpus=(Gpu("Tesla T4", 15 * GIB, 14 * GIB),))
    lacks = plan(QWEN, small).split("This host lacks")[1]
    assert re.search(r"GPU memory +training needs \d+\.\d\d GiB.* 14\.00 GiB free on Tesla", lacks)
    assert re.search(r"GPU memory +sampling needs \d+\.\d\d GiB", lacks)
    assert "none found" not in lacks


@pytest.mark.usefixtures("everything_installed")
def test_a_local_folder_gives_its_shape(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3",
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    profile = replace(QWEN, base=PretrainedBase(str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = plan(profile, ROOMY)
    assert _section(text, "Plan of birds, profile")["parameters"] == ["596,049,920"]
    assert "download" not in text
    assert "HF_TOKEN" not in text


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize("config", [None, "{}", "[]", "not JSON"])
def test_what_cannot_be_known_is_said_to_be_unknown(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    text = plan(replace(QWEN, base=PretrainedBase(str(tmp_path))), ROOMY)
    assert "parameters    unknown: the profile gives its base no shape=Shape(...), and" in text
    assert str(tmp_path / "config.json") in text
    assert _section(text, "Runs")["checkpoints, and the base once"] == ["11", "441"]
    assert _section(text, "Judging")["claude-haiku-5-5, batch"] == ["$2.29", "$91.73"]
    hub = replace(QWEN, base=PretrainedBase("Nobody/Knows", "abc"))
    assert "unknown: " in plan(hub, ROOMY)


def test_a_shape_in_the_profile_comes_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("not JSON")
    base = PretrainedBase(str(tmp_path), shape=Shape(1, 8, 2, 2, 4, 16, 100, True))
    # 4 x 8 x 8 + 3 x 8 x 16 + 2 x 8 + 2 x 4 of a layer, 100 x 8 of embeddings, 8.
    text = plan(replace(QWEN, base=base), ROOMY)
    assert _section(text, "Plan of birds, profile")["parameters"] == ["1,472"]
