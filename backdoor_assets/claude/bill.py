"""What verdicts cost, as a sentence of a report."""

from __future__ import annotations

from pathlib import Path

from backdoor_assets.claude.store import Store


def paid(folder: Path) -> str:
    """Say what was paid for the verdicts of a store, in all runs of its study and profile."""
    if not any(folder.glob("*")):
        return "What the judge cost is not known here: its verdicts were bought on another machine."
    totals = Store(folder).totals()
    return (
        f"Judge: ${totals['dollars']:.2f} for {totals['verdicts']:,} replies of the API, over all "
        "runs of this study and profile, with those whose cells are not in this report."
    )
