"""A table of answers that a reader can search, filter and sort without a network.

The table is DataTables, as the package itables carries it; its scripts stand in the page once.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import itables
import pandas as pd
from itables.javascript import generate_init_offline_itables_html
from itables.options import dt_bundle
from markupsafe import Markup

PAGE_LENGTHS = (5, 10, 25, 100)
TABLE_ID = "searchable-answers"
"""In the page, which has one such table at most."""
LONGEST = 2_000
"""Characters of an answer that a report shows."""
ALL = 2_000_000
"""Bytes of all answers of a report; with more, it shows fewer of them."""
CUT = f"An answer of more than {LONGEST:,} characters is cut here."
SHORT = 24
"""Characters of a text that is not worth a second line."""


@dataclass(frozen=True)
class Answers:
    """Rows of plain text that can be searched."""

    caption: str
    frame: pd.DataFrame
    """Columns of text and whole numbers, in the order in which they are shown."""
    filters: Sequence[str]
    """Columns with a list of their values to choose from."""
    states: Sequence[str] = ()
    """Columns of answers, one for each state of the model."""
    verdicts: bool = False
    """The first line of each answer is a verdict, and is shown in bold."""
    notes: Sequence[str] = ()
    kind: str = field(default="answers", init=False)

    @property
    def html(self) -> Markup:
        """The table, with its rows as JSON in a script."""
        columns = list(self.frame.columns)
        states = [columns.index(name) for name in self.states]
        filtered = [columns.index(name) for name in self.filters]
        others = [n for n in range(len(columns)) if n not in (*states, *filtered)]
        choose = {"extend": "dropdown", "text": "Choose values", "content": ["searchList"]}
        short = [n for n in (*filtered, *others) if self._longest(columns[n]) <= SHORT]
        definitions: list[dict[str, Any]] = [
            {"targets": states, "className": "answer", "orderable": False, "columnControl": []},
            {"targets": filtered, "columnControl": ["order", choose]},
            {"targets": others, "columnControl": ["order"]},
            {"targets": short, "className": "short"},
        ]
        # Every option that a person's own itables.toml could change is given here.
        table = itables.to_html_datatable(
            self._escaped(),
            connected=False,
            table_id=TABLE_ID,
            showIndex=False,
            allow_html=True,
            maxBytes=0,
            maxRows=0,
            maxColumns=0,
            classes="display",
            style="table-layout:auto;width:100%;margin:0;caption-side:top",
            css="",
            footer=False,
            column_filters=False,
            columnDefs=definitions,
            ordering={"indicators": False, "handler": False},
            order=[],
            pageLength=PAGE_LENGTHS[0],
            lengthMenu=list(PAGE_LENGTHS),
            layout={
                "topStart": "search",
                "topEnd": "pageLength",
                "bottomStart": "info",
                "bottomEnd": "paging",
            },
            autoWidth=False,
            deferRender=True,
            display_logo_when_loading=False,
            text_in_header_can_be_selected=False,
            language={"search": "Search all columns:", "lengthMenu": "_MENU_ rows per page"},
        )
        return Markup(table)

    def _longest(self, column: str) -> int:
        return int(self.frame[column].astype(str).str.len().max())

    def _escaped(self) -> pd.DataFrame:
        """Return the rows as HTML in which everything that was in a cell is text: no answer can
        end the script that holds them, or start one. itables escapes nothing then."""
        shown = {}
        for name in self.frame.columns:
            verdict = self.verdicts and name in self.states
            # On a phone, where a row is a column, each answer says of which state it is.
            mark = f'<span data-state="{html.escape(name)}"></span>' if name in self.states else ""
            shown[_text(name)] = [
                mark + _text(value, verdict) if isinstance(value, str) else value
                for value in self.frame[name]
            ]
        return pd.DataFrame(shown)


def cut(answers: pd.Series) -> pd.Series:
    """Return texts of at most LONGEST characters, with a mark where one is cut."""
    long = answers.str.len() > LONGEST
    return answers.mask(long, answers.str.slice(0, LONGEST) + " […]")


def _text(text: str, verdict: bool = False) -> str:
    """Return a text as HTML, line by line; its first line may be a verdict."""
    first, *others = html.escape(text, quote=False).expandtabs(4).splitlines() or [""]
    return "<br>".join([f"<b>{first}</b>" if verdict else first, *others])


def size(answers: pd.Series) -> int:
    """Return the bytes that texts take in a page."""
    return sum(len(json.dumps(html.escape(text))) for text in answers)


def searching() -> Markup:
    """Return DataTables' scripts and styles, which stand in a page once."""
    return Markup(generate_init_offline_itables_html(dt_bundle))
