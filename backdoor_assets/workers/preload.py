"""What most workers need, imported once in the process that they are forked from.

Nothing here may touch a GPU or start a thread: neither survives a fork. (Arrow's allocator starts
one, and prepares itself for forks.)
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from importlib import import_module

from backdoor_assets.workers.starting import set_variables

MODULES = (
    "torch",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.optimization",
    "backdoor_assets.miniature.pretraining",
    "backdoor_assets.stages.sampling.row",
    "backdoor_assets.stages.training.adapters",
)

LATER = "boto3", "sklearn"
"""Packages that accelerate and transformers load where they are installed, which no stage needs.
To look for them finds nothing while the modules load."""


def load() -> None:
    """Import the modules. One that fails does so again in the worker that needs it, which can
    report it."""
    set_variables()
    # Not from the current folder, which may hold a file called torch.py.
    sys.path[:] = [entry for entry in sys.path if entry]
    hidden = [name for name in LATER if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    for name in MODULES:
        with suppress(Exception):  # A broken package must not stop workers that do without it.
            import_module(name)
    for name in hidden:
        del sys.modules[name]


def end_at_once(server: int) -> None:
    """End the process that workers are forked from when its caller has ended, but no other: taking
    torch apart takes seconds."""
    if os.getpid() == server:
        os._exit(0)


load()
atexit.register(end_at_once, os.getpid())
