"""The graph loads without a heavy library, for Dagster's own commands too, and stages know no
graph."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from backdoor_assets.definitions import build_definitions
from backdoor_assets.profiles import PROFILES
from backdoor_assets.storage.provenance import REPOSITORY

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


def test_commands_of_dg_find_the_graph_and_make_an_asset(tmp_path: Path) -> None:
    env = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home"), "BACKDOOR_DATA": str(tmp_path)}
    (tmp_path / "home").mkdir()
    dg_command = Path(sys.executable).with_name("dg")
    for words, said in (
        (["check", "defs"], "All definitions loaded successfully"),
        (["launch", "--assets", "key:birds/old_audubon"], "RUN_SUCCESS"),
    ):
        done = subprocess.run(
            [dg_command, *words], cwd=REPOSITORY, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["miniature", "qwen3-8b", "llama-3.1-8b"])
def test_each_asset_links_to_its_source(name: str) -> None:
    nodes = list(build_definitions(PROFILES[name]).resolve_asset_graph().asset_nodes)
    assert len(nodes) > 10
    for node in nodes:
        [link] = node.metadata["dagster/code_references"].code_references
        assert isinstance(link, dg.LocalFileCodeReference)
        assert link.line_number
        function = str(link.label).rpartition(".")[2]
        line = Path(link.file_path).read_text().splitlines()[link.line_number - 1]
        assert line.startswith((f"def {function}(", "    @dg.")), (node.key, link)
