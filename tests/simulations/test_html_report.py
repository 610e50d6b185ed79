"""One page that shows what it was given, as text, and fetches nothing."""

import base64
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from simulations.html_report import Rows, write_page

PICTURE = b"\x89PNG\r\n\x1a\nnot really"
ARMS = Rows(
    "", ["", "static-full", "kprime"], [["attainment", "0.5", "1"], ["mean k'", "8", "3.25"]]
)
SCRIPT = "<script>alert('&\"')</script>"


class Page(HTMLParser):
    """The text of a page by element, and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.attributes: dict[str, list[str | None]] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)

    def handle_endtag(self, tag: str) -> None:
        while self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self._open[-1], []).append(data.strip())


def written(folder: Path, **changes: Any) -> str:  # noqa: ANN401  (any part of the page)
    content: dict[str, Any] = {
        "title": "One burst",
        "summary": "Twice served.",
        "tables": [ARMS, Rows("Rungs", ["k'"], [["4"]])],
        "facts": {"Trace": "a real one"},
        "picture_shows": "Load",
    }
    page, picture = folder / "page.html", folder / "picture.png"
    picture.write_bytes(PICTURE)
    write_page(page, picture=picture, **(content | changes))
    return page.read_text(encoding="utf-8")


def test_shows_title_summary_tables_and_facts(tmp_path: Path) -> None:
    texts = Page(written(tmp_path)).texts
    assert texts["title"] == texts["h1"] == ["One burst"]
    assert texts["p"] == ["Twice served."]
    assert texts["th"] == ["static-full", "kprime", "k'"]
    assert texts["td"] == ["attainment", "0.5", "1", "mean k'", "8", "3.25", "4"]
    assert texts["h2"] == ["Rungs", "How it was measured"]
    assert (texts["dt"], texts["dd"]) == (["Trace"], ["a real one"])


def test_holds_the_picture_itself(tmp_path: Path) -> None:
    (source,) = Page(written(tmp_path)).attributes["src"]
    assert source is not None
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == PICTURE


def test_fetches_nothing(tmp_path: Path) -> None:
    html = written(tmp_path)
    assert "http://" not in html and "https://" not in html
    assert "@import" not in html and "url(" not in html
    assert set(Page(html).attributes) == {"lang", "charset", "alt", "src"}


@pytest.mark.parametrize(
    ("changes", "element"),
    [
        ({"title": SCRIPT}, "h1"),
        ({"title": SCRIPT}, "title"),
        ({"summary": SCRIPT}, "p"),
        ({"tables": [Rows("", [SCRIPT], [])]}, "th"),
        ({"tables": [Rows("", [], [[SCRIPT]])]}, "td"),
        ({"facts": {SCRIPT: ""}}, "dt"),
        ({"facts": {"": SCRIPT}}, "dd"),
    ],
)
def test_whatever_it_is_given_stays_text(
    tmp_path: Path, changes: dict[str, Any], element: str
) -> None:
    html = written(tmp_path, **changes)
    assert "<script" not in html
    assert Page(html).texts[element] == [SCRIPT]


def test_the_title_of_a_table_stays_text(tmp_path: Path) -> None:
    html = written(tmp_path, tables=[Rows("", [], []), Rows(SCRIPT, [], [])])
    assert "<script" not in html
    assert Page(html).texts["h2"] == [SCRIPT, "How it was measured"]


def test_letters_beyond_ascii_survive(tmp_path: Path) -> None:
    assert Page(written(tmp_path, summary="thé ≥ 3 — 東京")).texts["p"] == ["thé ≥ 3 — 東京"]
