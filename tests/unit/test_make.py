"""What is given to `make` is data, whatever it looks like, and the clone's path may have spaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backdoor_assets.storage.provenance import REPOSITORY

ECHO = '#!/bin/sh\nprintf "<%s>" "$@" "$BACKDOOR_PROFILE" "$PYTEST_ADDOPTS"\n'
REAL = f'#!/bin/sh\nexec "{sys.executable}" -m backdoor_assets.commands "$@"\n'
CODE = (
    "birds; touch made",
    "$(shell touch made)",
    "`touch made`",
    "\" ' $$(touch made) \\",
    "a\nb",
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose path has a space, where everything is installed and only prints its words."""
    folder = tmp_path / "a clone"
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (folder / "Makefile").write_bytes((REPOSITORY / "Makefile").read_bytes())
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    for name in ("backdoor-assets", "python", "ruff", "basedpyright", "lint-imports", "pip"):
        (programs / name).write_text(ECHO)
        (programs / name).chmod(0o755)
    for name in ("installed", "installed-test"):
        (folder / ".venv" / name).touch()
    return folder


def make(clone: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    keep = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["make", *words],
        cwd=clone,
        env=keep | {"BACKDOOR_DATA": str(clone / "data")} | variables,
        capture_output=True,
        text=True,
    )
    assert not list(clone.rglob("made"))
    return done


@pytest.mark.parametrize("code", CODE)
def test_every_variable_is_data(clone: Path, code: str) -> None:
    for words, said in {
        ("plan", f"STUDY={code}"): f"<plan><--study={code}><><>",
        ("demo", f"STUDY={code}"): f"<demo><--study={code}><><>",
        ("demo", f"WITHOUT={code}", "REPLACE=1"): f"<demo><--without={code}><--replace><><>",
        ("birds_gpu", f"WITHOUT={code}"): f"<demo><--only><birds_gpu><--without={code}><><>",
        ("plan", f"PROFILE={code}"): f"<plan><{code}><>",
        ("plan", f"BACKDOOR_PROFILE={code}"): f"<plan><{code}><>",
        ("demo", f"REPLACE={code}"): "<demo><><>",
        ("agreement", f"SAMPLE={code}"): f"<agreement><--sample={code}><><>",
        ("chat", f"STATE={code}", f"AGAINST={code}"): f"<chat><--against={code}><--><{code}><><>",
        ("ui", f"PORT={code}"): f"<ui><--port={code}><><>",
        ("plan", f"COMMAND={code}", f"VENV={code}", f"ANY={code}"): "<plan><><>",
    }.items():
        done = make(clone, *words)
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    done = make(clone, "test", f"TESTS={code}")
    assert f"<-m><pytest><><-n 2 --dist loadgroup  {code}>" in done.stdout
    assert make(clone, "plan", BACKDOOR_PROFILE=code).stdout == f"<plan><{code}><>"
    assert make(clone, "plan", STUDY=code).stdout == f"<plan><--study={code}><><>"
    assert "make clean would delete" in make(clone, "clean", f"YES={code}").stdout


def test_options_are_left_out_without_their_variable(clone: Path) -> None:
    for target, said in {
        "plan": "<plan><><>",
        "demo": "<demo><><>",
        "chat": "<chat><--><><>",
        "ui": "<ui><><>",
        "agreement": "<agreement><><>",
    }.items():
        assert make(clone, target).stdout == said
    assert make(clone, "demo", "STUDY=", "WITHOUT=", "REPLACE=0").stdout == "<demo><><>"


def test_a_python_that_is_none_is_refused(clone: Path) -> None:
    (clone / ".venv" / "bin" / "pip").unlink()
    done = make(clone, "plan", "PYTHON=touch made")
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed; set PYTHON=" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "PROFILE=$(shell touch made)"], "'$(shell touch made)': no such profile"),
        (["demo", "PROFILE=a;b"], "BACKDOOR_PROFILE='a;b': no such profile"),
        (["demo", "WITHOUT='a|b"], '--without "\'a|b": a quote in it is not closed'),
        (["ui", "PORT=80; touch made"], "'80; touch made' is not a valid integer"),
    ],
)
def test_the_command_line_names_it(clone: Path, words: list[str], said: str) -> None:
    (clone / ".venv" / "bin" / "backdoor-assets").write_text(REAL)
    done = make(clone, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (clone / "data").exists()
