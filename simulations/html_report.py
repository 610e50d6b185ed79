"""One self-contained HTML page: a heading, paragraphs, tables and pictures, facts. No network."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
       color: #1d2733; }
div { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .85rem;
        font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .45rem; border-bottom: 1px solid #d5dbe3; text-align: right; }
th { vertical-align: bottom; } td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
h1 + p { font-size: 1.25rem; }
figure { margin: 1.5rem 0; } img { width: 100%; }
figcaption { color: #55606e; font-size: .9rem; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.2rem; }
dt { font-weight: 600; } dd { margin: 0; }
"""


class Rows(NamedTuple):
    """A table of text; the title may be empty."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Bold(str):
    """A cell of a row to look at first."""

    __slots__ = ()


class Picture(NamedTuple):
    """A PNG, which the page will hold itself; title and caption may be empty."""

    file: Path
    shows: str  # for who cannot see it
    title: str = ""
    caption: str = ""


def write_page(
    path: Path,
    *,
    title: str,
    summary: str,
    parts: Sequence[str | Rows | Picture],
    facts: Mapping[str, str],
    facts_title: str = "How it was measured",
) -> None:
    """The parts in their order, text as a paragraph each; then the facts."""
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(summary)}</p>
{"".join(map(_part, parts))}<h2>{escape(facts_title)}</h2>
<dl>{"".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())}</dl>
</body></html>
""",
        encoding="utf-8",
    )


def _part(part: str | Rows | Picture) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>\n"
    title = f"<h2>{escape(part.title)}</h2>\n" if part.title else ""
    return title + (_table(part) if isinstance(part, Rows) else _picture(part))


def _table(table: Rows) -> str:
    rows = "".join(_row("td", row) for row in table.rows)
    head = _row("th", table.header)
    return f"<div><table><thead>{head}</thead><tbody>\n{rows}</tbody></table></div>\n"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_cell(cell)}</{tag}>" for cell in cells) + "</tr>\n"


def _cell(cell: str) -> str:
    return f"<strong>{escape(cell)}</strong>" if isinstance(cell, Bold) else escape(cell)


def _picture(picture: Picture) -> str:
    image = base64.b64encode(picture.file.read_bytes()).decode()
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    shows = escape(picture.shows)
    return f'<figure><img alt="{shows}" src="data:image/png;base64,{image}">{caption}</figure>\n'
