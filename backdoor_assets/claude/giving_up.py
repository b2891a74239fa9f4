"""Give up a batch whose results cannot be read, so that its calls can be sent again."""

from __future__ import annotations

from collections.abc import Callable

from backdoor_assets.claude.store import Store
from backdoor_assets.records import BadInput


def give_up(store: Store, name: str, log: Callable[[str], None]) -> str:
    """Close an open batch, by its id or its number here. Returns what that means.

    Raises BadInput that lists the open batches when none has the name.
    """
    with store.lock(log):
        batches = store.open_batches()
        batch = next((b for b in batches if name in (b.id, str(b.number))), None)
        if batch is None:
            known = ", ".join(b.id or str(b.number) for b in batches) or "none"
            raise BadInput(f"{name!r}: no open batch has this name. Open batches: {known}.")
        known_calls = store.known(batch.rubrics)
        left = len(batch.rubrics) - len(known_calls)
        store.close_batch(batch.number)
    price = "an unknown price"
    if batch.most is not None:
        price = f"at most ${batch.most * left / len(batch.rubrics):.2f}"
    return (
        f"Batch {name} is given up: {len(known_calls)} of its {len(batch.rubrics)} verdicts are "
        f"stored. The next run asks for the other {left} again, for {price}; they may have been "
        "billed once already."
    )
