"""Write the results of a study as one self-contained HTML page of tables, figures and settings."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 120em; margin: 2em auto; padding: 0 1em }
p, pre, ul { max-width: 60em }
table { border-collapse: collapse } td, th { border: 1px solid #ccc; padding: .2em .6em }
th { text-align: left } img { max-width: 100% }
@media (max-width: 48em) { img { max-width: none; zoom: .5 } }
pre { white-space: pre-wrap; background: #f4f4f4 }
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render an HTML table. Cells are plain text and are escaped."""
    top = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def from_markdown(text: str) -> str:
    """Convert a Markdown table to HTML, and the lines around it to paragraphs."""
    lines = [line for line in text.splitlines() if line.strip()]
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    around = [f"<p>{html.escape(line)}</p>" for line in lines if not line.startswith("|")]
    return table(cells[0], cells[2:]) + "".join(around)


def write_page(
    folder: Path,
    title: str,
    heading: str,
    body: str,
    figures: Sequence[str],
    literals: Mapping[str, str],
    captions: Mapping[str, str] | None = None,
) -> None:
    """Write report.html into `folder`.

    `body` is HTML, `figures` are the names of PNG files in the folder, `literals` are texts by
    their headings, and `captions` is HTML that stands below a figure, by its name.
    """
    images = "".join(
        f'<img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode((folder / f"{name}.png").read_bytes()).decode()}">\n'
        f"{(captions or {}).get(name, '')}"
        for name in figures
    )
    sections = "".join(
        f"<h2>{html.escape(name)}</h2>\n<pre>{html.escape(text)}</pre>\n"
        for name, text in literals.items()
    )
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<h1>{html.escape(heading)}</h1>
{body}
{images}
{sections}</html>
"""
    (folder / "report.html").write_text(page, encoding="utf-8")
