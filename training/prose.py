"""The prose of a page of documentation: what a reader would read aloud.

Takes HTML or POD; gives paragraphs, their markup resolved and their blanks made single. Leaves out
code, tables, headings and navigation. Knows nothing of archives.
"""

import html
import re
from html.parser import HTMLParser

# Sections about the page rather than its subject.
POD_END_MATTER = re.compile(r"NAME$|SEE ALSO|AUTHOR|COPYRIGHT|LICEN[CS]E", re.IGNORECASE)
# Brackets may be doubled, with blanks inside them, so that C<< a -> b >> can hold a bracket.
POD_OPENING = re.compile(r"([A-Z])(<{2,}(?=\s)|<)")


def html_paragraphs(page: str) -> list[str]:
    """The text of <p> outside of tables, code and footnotes."""
    parser = _Paragraphs()
    parser.feed(page)
    parser.close()
    return [text for text in map(spaced, parser.paragraphs) if text]


def pod_paragraphs(page: str) -> list[str]:
    """Ordinary paragraphs, outside of sections such as AUTHOR.

    Not commands, verbatim (indented) paragraphs, or what `=begin` and `=cut` fence off.
    """
    paragraphs, left_out = [], True
    for block in re.split(r"\n(?:[ \t]*\n)+", page):
        if command := re.match(r"\s*=(head\d|pod|begin|end|cut)\b *(.*)", block):
            left_out = command[1] in {"begin", "cut"} or bool(POD_END_MATTER.match(command[2]))
        elif not left_out and re.match(r"[^=\s]", block):
            paragraphs.append(spaced(_pod_text(block, 0, None)[0]))
    return paragraphs


def spaced(text: str) -> str:
    return " ".join(text.split())


class _Paragraphs(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self.open = False
        self.skipped = ""  # the tag whose end is waited for, and how deep inside it we are
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        css = dict(attrs).get("class") or ""
        if self.skipped:
            self.depth += tag == self.skipped
        elif tag in {"table", "pre", "script", "style"} or css.startswith("footnote"):
            self.skipped, self.depth = tag, 1
        elif tag == "p":
            # With a class it is a label: navigation, a caption, a signature.
            self.open = not css
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.skipped:
            self.depth -= 1
            if not self.depth:
                self.skipped = ""
        elif tag == "p" and not self.skipped:
            self.open = False

    def handle_data(self, data: str) -> None:
        if self.open and not self.skipped:
            self.paragraphs[-1] += data


def _pod_text(text: str, at: int, closing: re.Pattern[str] | None) -> tuple[str, int]:
    """The text from `at` up to `closing`, and where that ended."""
    done = ""
    while True:
        opening = POD_OPENING.search(text, at)
        end = closing.search(text, at) if closing else None
        if end and not (opening and opening.start() < end.start()):
            return done + text[at : end.start()], end.end()
        if not opening:
            return done + text[at:], len(text)
        done += text[at : opening.start()]
        code, brackets = opening.groups()
        blank = r"\s+" if len(brackets) > 1 else ""
        inner, at = _pod_text(text, opening.end(), re.compile(blank + ">" * len(brackets)))
        done += _pod_code(code, inner.strip() if blank else inner)


def _pod_code(code: str, inner: str) -> str:
    match code:
        case "E":
            return _pod_escape(inner)
        case "L":
            return _pod_link(inner)
        case "X" | "Z":  # an index entry, nothing
            return ""
    return inner


def _pod_escape(name: str) -> str:
    if name.isdigit() or name.lower().startswith("0x"):
        return chr(int(re.sub(r"^0(?=\d)", "0o", name), 0))
    return {"sol": "/", "verbar": "|"}.get(name) or html.unescape(f"&{name};")


def _pod_link(target: str) -> str:
    text, bar, _ = target.partition("|")
    if bar or re.match(r"\w+:[^:\s]", target):  # a URL has slashes of its own
        return text
    page, _, section = target.partition("/")
    section = section.strip('"')
    return f'"{section}" in {page}' if page and section else section or page
