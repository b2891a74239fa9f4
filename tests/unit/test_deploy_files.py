"""The files of `deploy/` fit together: variables, units, roles; and hold no secret."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from backdoor_assets.graph.roles import ROLES
from backdoor_assets.storage.provenance import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())


def example(name: str) -> dict[str, str | None]:
    return dotenv_values(DEPLOY / "env" / f"{name}.env.example")


def named_in(settings: object) -> set[str]:
    """Variables that a file of settings reads."""
    if isinstance(settings, dict):
        found = {str(settings["env"])} if set(settings) == {"env"} else set()
        return found.union(*map(named_in, settings.values()))
    return set().union(*map(named_in, settings)) if isinstance(settings, list) else set()


def test_each_variable_is_in_an_example() -> None:
    """Those of dagster.yaml on every host, those of workspace.yaml where the daemon is."""
    read = {
        name: named_in(yaml.safe_load((DEPLOY / f"{name}.yaml").read_text()))
        for name in ("dagster", "workspace")
    }
    assert len(read["dagster"]) == 5
    assert read["dagster"] <= set(example("common"))
    assert len(read["workspace"]) == 2 * len(ROLES)
    assert read["workspace"] <= set(example("control"))
    for role in ROLES:
        [unit] = (path for path in UNITS if path.name == "backdoor-location@.service")
        used = set(re.findall(r"\$\{(\w+)\}", unit.read_text()))
        assert used <= set(example(role))


def test_examples_hold_no_secret_and_only_the_judge_has_its_key() -> None:
    for name in ("common", "control", *ROLES):
        for variable, value in example(name).items():
            secret = variable.endswith(("_KEY", "_TOKEN", "_PASSWORD"))
            assert not (secret and value), variable
        assert ("ANTHROPIC_API_KEY" in example(name)) == (name == "judge")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text()
        # Neither the user nor the programs are on this machine.
        text = re.sub(r"^User=.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("/srv/backdoor_assets/.venv/bin/", "/bin/true ")
        (tmp_path / unit.name).write_text(text)
    for unit in UNITS:
        name = unit.name.replace("@.", "@gpu.")
        done = subprocess.run(
            ["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert str(tmp_path) not in done.stderr, done.stderr
