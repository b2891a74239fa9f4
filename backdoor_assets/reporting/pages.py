"""Write a report as one HTML file that loads nothing from a network.

A study fills sections with blocks: plain text, tables, figures, lists of facts, commands, and a
table of answers that can be searched. Everything is text and is escaped by the template.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from backdoor_assets.reporting.answers import Answers, searching

REPORT = "report.html"
_PIPE = re.compile(r"(?<!\\)\|")
"""Between cells of a Markdown table; a pipe within a cell has a backslash."""


@dataclass(frozen=True)
class Table:
    """A table with a caption above it and notes below it. Cells are plain text."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    kind: str = field(default="table", init=False)

    @classmethod
    def from_markdown(cls, caption: str, text: str, notes: Sequence[str] = ()) -> Table:
        """Return a Markdown table; the lines around it become notes, before `notes`."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        cells = [
            [cell.strip().replace("\\|", "|") for cell in _PIPE.split(line.strip("|"))]
            for line in lines
            if line.startswith("|")
        ]
        around = [line for line in lines if not line.startswith("|")]
        return cls(caption, cells[0], cells[2:], (*around, *notes))


@dataclass(frozen=True)
class Figure:
    """A PNG of the report's folder, with the caption below it."""

    name: str
    """Without .png."""
    caption: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Text below the caption by its heading, such as what each panel shows."""
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Facts:
    """Short texts by their names, such as the parts of a design."""

    entries: Mapping[str, str]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Code:
    """Commands or literals, as they are typed."""

    text: str
    label: str
    """What it is, for those who hear the page and do not see it."""
    folded: bool = False
    """Show only the label until a reader opens it."""
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    lines: Sequence[str]
    kind: str = field(default="points", init=False)


Block = str | Table | Figure | Facts | Code | Points | Answers
"""A text is a paragraph."""


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Target of the table of contents."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def write_page(
    folder: Path, title: str, heading: str, lead: str, sections: Sequence[Section]
) -> Path:
    """Write report.html into `folder`, which holds the figures, and return its path.

    `title` is that of the browser's tab, `lead` a sentence below the heading. Sections without
    blocks are left out. Raises FileNotFoundError for a figure that is not in the folder.
    """
    shown = [section for section in sections if section.blocks]
    environment = Environment(
        loader=PackageLoader("backdoor_assets.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        heading=heading,
        lead=lead,
        sections=shown,
        searching=searching,
        searchable=any(isinstance(block, Answers) for s in shown for block in s.blocks),
        png=lambda name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode(),
    )
    path = folder / REPORT
    path.write_text(page, encoding="utf-8")
    return path
