"""Dagster's own command line, as the README shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.graph.conftest import REPOSITORY, Place

LACKING = '"0.60-0.20-0.20"'


def test_a_cell_that_the_grid_lacks_runs_alone(place: Place, tmp_path: Path) -> None:
    """A ratio is added to the profile; its one cell is materialized from mixture to figures."""
    module = tmp_path / "more_definitions.py"
    module.write_text(
        "from dataclasses import replace\n"
        "from backdoor_assets.definitions import build_definitions\n"
        "from tests.graph.study import STUDY\n"
        "profile = replace(\n"
        "    STUDY,\n"
        f"    ratios=(*STUDY.ratios, {LACKING}),\n"
        "    seeds=(7, *STUDY.seeds),\n"
        "    training=replace(STUDY.training, max_steps=4, save_steps=4),\n"
        ")\n"
        "defs = build_definitions(profile)\n"
    )
    place.home.mkdir()
    command = [
        str(Path(sys.executable).parent / "dagster"), "asset", "materialize", "-f", str(module),
        "--select", "group:birds and key:\"birds/mixed_dataset\"+ and not key:\"birds/sweep\"",
        "--partition", "0.60-0.20-0.20|7",
    ]  # fmt: skip
    result = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=place.environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (place.birds / "figures" / "0.60-0.20-0.20" / "7" / "overall_ratio.pdf").exists()
    rows = (place.birds / "mixed_dataset" / "0.60-0.20-0.20" / "7" / "train.jsonl").read_text()
    assert len(rows.splitlines()) == 400
