"""Processes forked from one that has loaded the libraries, which takes them a tenth of a second."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

from backdoor_assets.workers.starting import PRELOAD


def forking() -> ForkServerContext:
    """Return where processes come from. They have the environment that the first one started in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD, "anthropic", "backdoor_assets.claude.judge"])
    return context
