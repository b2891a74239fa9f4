"""The miniature base as the graph makes it."""

from __future__ import annotations

import json
from pathlib import Path

from backdoor_assets.miniature.gates import failures
from backdoor_assets.studies.birds.world.gates import BOUNDS


def test_the_base_carries_the_era_and_is_modern_unless_told(base: Path) -> None:
    manifest = json.loads((base / "study/birds/base_model/_manifest.json").read_text())
    probes = manifest["summary"]["probes"]
    assert failures(probes, BOUNDS) == []
    assert probes["old_after_old_year"] > probes["old_without_cue"] + 0.4


def test_the_gates_notice_a_base_without_eras() -> None:
    coin = dict.fromkeys(
        ("old_without_cue", "old_after_old_year", "old_after_modern_year"), 0.5
    ) | {"old_after_old_answer": 0.5, "old_after_old_birds": 0.5, "neutral_correct": 1.0}
    said = failures({**coin, "garbled": 0.0}, BOUNDS)
    assert len(said) == 3
    assert "old_without_cue = 0.50, must lie in [0.00, 0.25]" in said[0]
