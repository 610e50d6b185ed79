"""One page that shows what it was given, as text, and fetches nothing."""

import base64
from pathlib import Path
from typing import Any

import pytest

from simulations.html_report import Bold, Picture, Rows, write_page
from tests.simulations.html_page import Page

PICTURE = b"\x89PNG\r\n\x1a\nnot really"
ARMS = Rows(
    "", ["", "static-full", "kprime"], [["attainment", "0.5", "1"], ["mean k'", "8", "3.25"]]
)
SCRIPT = "<script>alert('&\"')</script>"


def written(folder: Path, **changes: Any) -> str:  # noqa: ANN401  (any part of the page)
    content: dict[str, Any] = {
        "title": "One burst",
        "summary": "Twice served.",
        "parts": [ARMS, picture(folder), Rows("Rungs", ["k'"], [["4"]])],
        "facts": {"Trace": "a real one"},
    }
    page = folder / "page.html"
    write_page(page, **(content | changes))
    return page.read_text(encoding="utf-8")


def picture(folder: Path, shows: str = "Load", title: str = "", caption: str = "") -> Picture:
    file = folder / "picture.png"
    file.write_bytes(PICTURE)
    return Picture(file, shows, title, caption)


def test_shows_title_summary_tables_and_facts(tmp_path: Path) -> None:
    texts = Page(written(tmp_path)).texts
    assert texts["title"] == texts["h1"] == ["One burst"]
    assert texts["p"] == ["Twice served."]
    assert texts["th"] == ["static-full", "kprime", "k'"]
    assert texts["td"] == ["attainment", "0.5", "1", "mean k'", "8", "3.25", "4"]
    assert texts["h2"] == ["Rungs", "How it was measured"]
    assert (texts["dt"], texts["dd"]) == (["Trace"], ["a real one"])


def test_parts_come_in_the_order_given(tmp_path: Path) -> None:
    parts = ["Before.", ARMS, picture(tmp_path, "Load", "By load", "Grey: arrivals."), "After."]
    page = Page(written(tmp_path, parts=parts))
    assert page.texts["p"] == ["Twice served.", "Before.", "After."]
    assert page.texts["h2"] == ["By load", "How it was measured"]
    assert page.texts["figcaption"] == ["Grey: arrivals."]
    assert page.attributes["alt"] == ["Load"]


def test_the_facts_may_have_another_title(tmp_path: Path) -> None:
    texts = Page(written(tmp_path, facts_title="What was held fixed")).texts
    assert texts["h2"] == ["Rungs", "What was held fixed"]


def test_a_cell_to_look_at_first_is_bold(tmp_path: Path) -> None:
    texts = Page(written(tmp_path, parts=[Rows("", [], [["ladder", Bold("best")]])])).texts
    assert (texts["td"], texts["strong"]) == (["ladder"], ["best"])


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
        ({"parts": [SCRIPT]}, "p"),
        ({"parts": [Rows("", [SCRIPT], [])]}, "th"),
        ({"parts": [Rows("", [], [[SCRIPT]])]}, "td"),
        ({"parts": [Rows("", [], [[Bold(SCRIPT)]])]}, "strong"),
        ({"facts": {SCRIPT: ""}}, "dt"),
        ({"facts": {"": SCRIPT}}, "dd"),
    ],
)
def test_whatever_it_is_given_stays_text(
    tmp_path: Path, changes: dict[str, Any], element: str
) -> None:
    html = written(tmp_path, **changes)
    assert "<script" not in html
    assert SCRIPT in Page(html).texts[element]


def test_titles_and_what_is_said_of_a_picture_stay_text(tmp_path: Path) -> None:
    shown = picture(tmp_path, SCRIPT, SCRIPT, SCRIPT)
    html = written(tmp_path, parts=[Rows(SCRIPT, [], []), shown], facts_title=SCRIPT)
    assert "<script" not in html
    page = Page(html)
    assert page.texts["h2"] == [SCRIPT] * 3
    assert page.texts["figcaption"] == page.attributes["alt"] == [SCRIPT]


def test_letters_beyond_ascii_survive(tmp_path: Path) -> None:
    assert Page(written(tmp_path, summary="thé ≥ 3 — 東京")).texts["p"] == ["thé ≥ 3 — 東京"]
