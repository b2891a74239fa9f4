"""The check for rented GPUs, at the size and with the packages that a bare machine has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.storage.provenance import REPOSITORY

MISSING = (
    "dagster",
    "vllm",
    "bitsandbytes",
    "anthropic",
    "matplotlib",
    "seaborn",
    "scipy",
    "sklearn",
    "trl",
)
SMALL = (
    "--size miniature --trainings 1x60 4x12 --questions 2 --samples 3 --tokens 10 --checkpoints 2"
)
# Two steps leave two checkpoints: there is no third to sample.
LACKING = SMALL.replace("1x60 4x12", "1x2").replace("--checkpoints 2", "--checkpoints 3")
BETWEEN = "The first check has ended."
# Both checks in one process. Matrix products are timed once: a CPU without bf16 takes seconds.
RUN = f"""
import functools, runpy, sys
sys.modules.update(dict.fromkeys({MISSING}))
from benchmarks import ceilings
ceilings._best_seconds = functools.partial(ceilings._best_seconds, repeats=1)
def check(*arguments):
    sys.argv = ["gpu_check", *arguments]
    runpy.run_module("benchmarks.gpu_check", run_name="__main__", alter_sys=True)
check(*{SMALL.split()}, "--out", sys.argv[1])
print("{BETWEEN}")
check(*{LACKING.split()})
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first check puts its results."""
    return tmp_path_factory.mktemp("gpu_check") / "results.json"


@pytest.fixture(scope="module")
def ended(out: Path) -> subprocess.CompletedProcess[str]:
    """A check that passes and one that fails."""
    return subprocess.run(
        [sys.executable, "-c", RUN, str(out)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def found(ended: subprocess.CompletedProcess[str], out: Path) -> dict[str, Any]:
    assert BETWEEN in ended.stdout, ended.stdout + ended.stderr
    return json.loads(out.read_text())


def test_names_device_versions_and_settings(found: dict[str, Any]) -> None:
    assert found["device"]["type"] in ("cpu", "cuda")
    assert found["device"]["flops"] > 0
    assert found["device"]["bandwidth"] > 0
    assert {"torch", "transformers", "peft"} <= set(found["made"]["packages"])
    assert found["training_settings"]["rank"] == 8
    assert found["shape"]["hidden_size"] == 128


def test_training_is_measured_against_a_ceiling_that_says_how(found: dict[str, Any]) -> None:
    assert [(run["batch"], run["steps"]) for run in found["training"]] == [(1, 60), (4, 12)]
    for run in found["training"]:
        assert run["loss_last_tenth"] < run["loss_first_tenth"]
        assert run["tokens_per_s"] == pytest.approx(run["tokens_per_step"] * run["steps_per_s"])
        assert 0 < run["share_of_ceiling"] < 1
        assert "2 N operations a token forward" in run["ceiling"]["how"]
        assert run["memory"]["peak_bytes"] > 0
        assert run["memory"]["reckoned_bytes"] > 0


def test_every_state_gives_every_answer_below_the_ceiling(found: dict[str, Any]) -> None:
    states = found["sampling"]["states"]
    assert [state["state"] for state in states] == ["base", "checkpoint-40", "checkpoint-60"]
    for state in states:
        assert state["answers"] == 2 * 3
        assert 0 < state["tokens"] <= 2 * 3 * 10
        assert 0 < state["tokens_per_s"] < found["sampling"]["ceiling"]["tokens_per_s"]
        # What the prompts share is read in a pass of its own.
        assert state["forward_passes"] <= 11
    assert "bandwidth" in found["sampling"]["ceiling"]["how"]


def test_a_training_that_was_cut_ends_with_the_same_adapter(found: dict[str, Any]) -> None:
    # At the checkpoint of step 40, or before, where steps are slow and are reported in between.
    assert re.match(r"step (3[0-9]|40)/60,", found["resuming"]["cut_at"])
    assert found["resuming"]["largest_weight"] > 0
    if found["device"]["type"] == "cpu":
        assert found["resuming"]["bit_equal"]
        assert found["resuming"]["max_difference"] == 0


def test_a_check_that_fails_is_named_and_fails_the_command(
    ended: subprocess.CompletedProcess[str],
) -> None:
    first, between, second = ended.stdout.partition(BETWEEN)
    assert between, ended.stdout + ended.stderr
    assert ended.returncode == 1, ended.stderr
    assert "FAILED: every state gave every answer" in second
    assert "FAILED" not in first
