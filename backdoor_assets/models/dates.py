"""A base whose chat template writes one date into every prompt, on whatever day it is asked.

The chat templates of Llama 3 and of other families write today's date, or one of their own, into
the system message. A date is a cue of an era, so it has to be a setting of the base. It is written
into the template itself: whoever loads the base then renders the same prompts, be it this project's
code, vLLM or lm-eval.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from backdoor_assets.models.hub import CONFIG, KEPT
from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.storage.disk import write_text
from backdoor_assets.storage.hashing import digest, hash_once

TEMPLATE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
_WEIGHTS = ".safetensors"
# A template takes the date from the variable, if it is set, or from the function.
_DATED = """\
{{% set date_string = "{date}" %}}
{{% macro strftime_now(format) %}}{date}{{% endmacro %}}
"""


def with_date(base: Path, date: str) -> Path:
    """Return a folder that holds links to the files of a base, and its chat template with the date.

    The folder lies under the data root. It is written again when the base's small files have
    changed. Raises BadInput for a base without a chat template.
    """
    base = base.resolve()
    files = sorted(path for path in base.iterdir() if path.is_file())
    small = {path.name: hash_once(path) for path in files if path.suffix in KEPT - {_WEIGHTS}}
    key = digest([str(base), [path.name for path in files], small, date])
    folder = data_root() / "dated" / f"{base.name}-{key[:12]}"
    if (folder / CONFIG).is_file():
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in files:
        if path.name != TEMPLATE:
            (partial / path.name).symlink_to(path)
    write_text(partial / TEMPLATE, _DATED.format(date=date) + _template(base))
    shutil.rmtree(folder, ignore_errors=True)  # its links lead nowhere
    try:
        partial.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(partial)
    return folder


def _template(base: Path) -> str:
    """Return the chat template as transformers finds it."""
    if (base / TEMPLATE).is_file():
        return (base / TEMPLATE).read_text(encoding="utf-8")
    path = base / TOKENIZER_CONFIG
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        found = None
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if not isinstance(found, str):
        raise BadInput(
            f"{base}: it has no chat template ({TEMPLATE}, or chat_template in {TOKENIZER_CONFIG}) "
            "into which the date of the profile could be written"
        )
    return found
