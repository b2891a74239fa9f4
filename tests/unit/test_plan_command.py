"""`make plan` as it is typed, on a machine that has nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backdoor_assets.profiles import PROFILES

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = "ANTHROPIC_API_KEY", "HF_TOKEN"


def _run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a shell that has no nvidia-smi and no key, also where a .env has one."""
    env = {"PATH": "/nowhere", "OMP_NUM_THREADS": "1", **dict.fromkeys(KEYS, ""), **variables}
    command = [sys.executable, "-m", "backdoor_assets.commands", "plan", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", PROFILES)
def test_it_prints_on_a_machine_that_has_nothing(name: str, tmp_path: Path) -> None:
    done = _run(BACKDOOR_PROFILE=name, BACKDOOR_DATA=str(tmp_path / "data"), HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Plan of birds, profile {name}\n")
    assert done.stdout.count("This host lacks") == done.stdout.count("Plan of ")
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())  # it makes nothing
    assert max(map(len, done.stdout.split("This host lacks")[0].splitlines())) <= 100


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


def test_it_loads_no_heavy_library() -> None:
    program = (
        "import sys\n"
        "from backdoor_assets.commands.cli import cli\n"
        "cli(['plan'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'peft', 'vllm', 'anthropic', 'matplotlib'}\n"
        "print(*heavy & set(sys.modules), file=sys.stderr)"
    )
    env = {**os.environ, "BACKDOOR_PROFILE": "qwen3-8b"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert "This host lacks" in done.stdout
    assert done.stderr.split() == []


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
