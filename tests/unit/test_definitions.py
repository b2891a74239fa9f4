"""Loading the graph costs no heavy library, and the stages know no graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft", "matplotlib", "seaborn", "anthropic", "vllm")
LOAD_GRAPH = f"""
import sys
import backdoor_assets.definitions

print(*sorted(set({HEAVY!r}) & set(sys.modules)))
"""
LOAD_STAGES = """
import sys
sys.modules["dagster"] = None  # whoever imports it now fails

import backdoor_assets.stages.training, backdoor_assets.stages.sampling
import backdoor_assets.stages.capabilities, backdoor_assets.mixtures.mixing
import backdoor_assets.stages.judging.judge, backdoor_assets.mixtures.judging.agreement
import backdoor_assets.mixtures.rates, backdoor_assets.mixtures.results
import backdoor_assets.miniature.pretraining, backdoor_assets.studies.birds.world
import backdoor_assets.workers.tasks, backdoor_assets.workers.sampling
"""


def _run(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True)


def test_loading_the_graph_imports_no_heavy_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    done = _run(LOAD_GRAPH, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_stages_can_be_used_without_dagster(tmp_path: Path) -> None:
    done = _run(LOAD_STAGES, tmp_path)
    assert done.returncode == 0, done.stderr
