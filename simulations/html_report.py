"""One self-contained HTML page: a heading, facts, a table of arms, a picture. No network needed."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1d2733; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #d5dbe3; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { width: 100%; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 0; }
"""


def write_page(
    path: Path,
    *,
    title: str,
    summary: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    facts: Mapping[str, str],
    picture: Path,
) -> None:
    image = base64.b64encode(picture.read_bytes()).decode()
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(summary)}</p>
<table><thead>{_row("th", header)}</thead><tbody>
{"".join(_row("td", row) for row in rows)}</tbody></table>
<img alt="Load, time to first token, queue and k' over time" src="data:image/png;base64,{image}">
<h2>How it was measured</h2>
<dl>{"".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())}</dl>
</body></html>
""",
        encoding="utf-8",
    )


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"
