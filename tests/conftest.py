"""Order of the tests: the base takes longest to make, so that one process begins with it."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = str(item.path)
        return 0 if path.endswith("test_base.py") else 1 if "/unit/" in path else 2

    items.sort(key=rank)
