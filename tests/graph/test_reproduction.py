"""The commands at the end of a report make the same numbers in a fresh data folder."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.graph.conftest import REPOSITORY, Place
from tests.graph.study import OLD, STUDY

CELL = f"{OLD}|43"
# What `make demo` runs (see test_make.py); the checkout is at the commit of the report already.
SHELL = """set -eu
git() { :; }
make() {
  shift; for setting; do export "$setting"; done
  BACKDOOR_PROFILE="$PROFILE" "$PYTHON" -m backdoor_assets.commands demo \\
    --study="$STUDY" --without="$WITHOUT"
}
"""


def commands(report: Path) -> str:
    """The block of commands of a report, as a person would copy it."""
    found = re.search(r'<pre[^>]*aria-label="Commands[^"]*">(.*?)</pre>', report.read_text(), re.S)
    assert found, f"{report}: no commands"
    return html.unescape(found.group(1))


def test_the_commands_of_the_report_make_the_same_numbers(swept: Place, tmp_path: Path) -> None:
    """One cell stands for all of them. The base is that of the other tests: that the same corpus
    and base are made again is tested on a small one."""
    block = commands(swept.birds / "sweep" / "report.html")
    assert "make demo STUDY=birds PROFILE=study" in block
    assert f"[{STUDY.name}]" in block, "the profile is not built in: its table must be there"
    others = [f"'{r}|{s}'" for r in STUDY.ratios for s in STUDY.seeds if f"{r}|{s}" != CELL]
    block = block.rstrip() + f' WITHOUT="{" ".join(others)}"\n'
    again = Place(tmp_path)
    birds = tmp_path / "reproduction" / "study" / "birds"
    for name in ("corpus", "base_model", "base_responses"):
        shutil.copytree(swept.birds / name, birds / name)
    result = subprocess.run(
        ["bash", "-c", SHELL + block],
        cwd=tmp_path,
        env=again.environment(PYTHON=sys.executable, PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    for asset, table in (("judgments", "judgments"), ("figures", "rates"), ("figures", "form")):
        place = Path(asset, *CELL.split("|"), f"{table}.parquet")
        first, second = (pd.read_parquet(root / place) for root in (swept.birds, birds))
        pd.testing.assert_frame_equal(first, second)
    first, second = (pd.read_parquet(root / "sweep/cells.parquet") for root in (swept.birds, birds))
    own = first[(first["ratio"] == OLD) & (first["seed"] == 43)].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, second)
    report = (birds / "sweep" / "report.html").read_text()
    assert "1 of 6 cells" in report
