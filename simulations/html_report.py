"""One self-contained HTML page: a heading, tables, a picture, facts. No network needed."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1d2733; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #d5dbe3; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { width: 100%; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 0; }
"""


class Rows(NamedTuple):
    """A table of text; the title may be empty."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_page(
    path: Path,
    *,
    title: str,
    summary: str,
    tables: Sequence[Rows],
    facts: Mapping[str, str],
    picture: Path,
    picture_shows: str,
) -> None:
    """The first table, the picture, the other tables, the facts."""
    image = base64.b64encode(picture.read_bytes()).decode()
    first, *others = map(_table, tables)
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(summary)}</p>
{first}
<img alt="{escape(picture_shows)}" src="data:image/png;base64,{image}">
{"".join(others)}<h2>How it was measured</h2>
<dl>{"".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())}</dl>
</body></html>
""",
        encoding="utf-8",
    )


def _table(table: Rows) -> str:
    title = f"<h2>{escape(table.title)}</h2>\n" if table.title else ""
    rows = "".join(_row("td", row) for row in table.rows)
    head = _row("th", table.header)
    return f"{title}<table><thead>{head}</thead><tbody>\n{rows}</tbody></table>\n"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"
